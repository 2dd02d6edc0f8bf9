"""Messages in the hands of workers: take, acknowledge, give back, adopt, park, promote, beat, sweep.

The transport and the beat helper run these calls; an orchestrator runs `promote` and `sweep_flights` as
well, so that retries and a dead worker's messages go on while no worker lives. Incarnations of workers
start with `w`. Fields of a flight record are numbers that the taker counts, never used twice by one
process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .keys import Keys
from .scripts import Call, command, script

__all__ = [
    "MAX_LOST",
    "Swept",
    "Taken",
    "ack",
    "adopt",
    "beat",
    "begin",
    "forget",
    "give_back",
    "is_current",
    "park",
    "promote",
    "publish",
    "set_aside",
    "sweep_flights",
    "take",
]


LEASE = 10_000  # milliseconds, where nothing else is set
MAX_LOST = 3  # processes that may die in a row while they run one step


@dataclass(frozen=True, slots=True)
class Taken:
    """The reply to `take`: messages in the order they were queued, as (field, number of the queue key,
    message).
    """

    messages: list[tuple[int, int, bytes]]
    dropped: int  # forged, revoked or duplicate messages of the engine
    left: bool  # something stayed behind on these queue keys


@dataclass(frozen=True, slots=True)
class Swept:
    """What one `sweep_flights` did."""

    returned: int  # messages back in their queues, parked, or left to be judged
    condemned: int  # incarnations found dead
    forgotten: int  # condemned earlier, and now found empty


def take(
    keys: Keys, incarnation: str, base: int, limit: int, queues: Sequence[tuple[str, int]], *, now: int = 0
) -> Call[Taken]:
    """Take up to `limit` messages, from each (queue key, cap) at most its cap; fields count up from base + 1.

    Refused with FencedError when the incarnation's lease lapsed. Not idempotent: after a lost reply the
    incarnation must be given up (`adopt`), which returns what was taken unseen.
    """

    def decode(reply: Any) -> Taken:
        pairs = zip(reply[2::2], reply[3::2], strict=True)
        messages = [(base + n, queue, message) for n, (queue, message) in enumerate(pairs, 1)]
        return Taken(messages, reply[0], bool(reply[1]))

    flat = [item for queue in queues for item in queue]
    return script("take").call(
        keys, decode=decode, incarnation=incarnation, base=base, limit=limit, queues=flat, now=now
    )


def ack(keys: Keys, incarnation: str, fields: Iterable[int]) -> Call[int]:
    """The messages are done with. Answers how many of them were still this incarnation's."""
    return script("ack").call(keys, idempotent=True, incarnation=incarnation, fields=_texts(fields))


def give_back(keys: Keys, incarnation: str, fields: Iterable[int], *, head: bool) -> Call[int]:
    """Return messages to their queues: to the head what was never started, to the tail what was rejected."""
    return script("give_back").call(
        keys, idempotent=True, incarnation=incarnation, head=head, fields=_texts(fields), now=0
    )


def adopt(
    keys: Keys,
    old: str,
    new: str,
    *,
    keep: Iterable[int] = (),
    acked: Iterable[int] = (),
    left: Iterable[int] = (),
    lease: int,
    dead: bool = False,
    max_lost: int = MAX_LOST,
    now: int = 0,
) -> Call[set[int]]:
    """End `old`: `acked` is done with, `keep` moves to `new`, the rest returns. `dead`: its process died, and
    for `max_lost` see `sweep_flights`. `left` was to be kept in an earlier try, and runs no longer.

    Answers the kept that were still there.
    """

    def decode(reply: Any) -> set[int]:
        return {int(field) for field in reply}

    return script("adopt").call(
        keys,
        decode=decode,
        old=old,
        new=new,
        lease=lease,
        acked=_texts(acked),
        keep=_texts(keep),
        left=_texts(left),
        dead=dead,
        most=max_lost,
        now=now,
    )


def publish(keys: Keys, queue_key: str, message: str | bytes) -> Call[int]:
    """Put a foreign message on its queue and wake a worker."""
    return script("publish").call(keys, queue_key=queue_key, message=message)


def park(
    keys: Keys,
    member: str,
    queue_key: str,
    message: str | bytes,
    due: int,
    *,
    incarnation: str = "",
    field: int = 0,
) -> Call[bool]:
    """Keep a message until `due`; one taken too early leaves this flight record in the same call."""
    return script("park").call(
        keys,
        decode=bool,
        member=member,
        queue_key=queue_key,
        message=message,
        due=due,
        incarnation=incarnation,
        field=str(field),
    )


def promote(keys: Keys, limit: int = 100, *, now: int = 0) -> Call[tuple[int, int]]:
    """Move due parked messages to their queues. Answers how many, and when the next is due (-1: none)."""
    return script("promote").call(keys, decode=_pair, limit=limit, now=now)


def beat(
    keys: Keys,
    incarnation: str,
    lease: int,
    *,
    info: str | bytes = "",
    join: bool = False,
    running: Iterable[str] = (),
    now: int = 0,
) -> Call[list[str]]:
    """Renew the lease (ms) of a process; only its first beat may `join`. Answers the running task ids
    that are revoked.

    Refused with FencedError when the lease had lapsed and the process's work was given to others.
    """

    def decode(reply: Any) -> list[str]:
        return [task_id.decode() for task_id in reply]

    return script("beat").call(
        keys,
        decode=decode,
        idempotent=True,
        incarnation=incarnation,
        lease=lease,
        info=info,
        join=join,
        running=list(running),
        now=now,
    )


def sweep_flights(
    keys: Keys, limit: int = 200, *, lease: int = LEASE, max_lost: int = MAX_LOST, now: int = 0
) -> Call[Swept]:
    """Return the messages of dead workers to their queues, at most `limit`; run it again while it returns
    some. After a silence, in which nobody could beat, a lease (ms) passes before anybody is taken for dead.

    A step that was being run when its process died is queued again once, then parked for a while, and after
    `max_lost` such deaths in a row becomes a lapsed deadline of kind `l`.
    """

    def decode(reply: Any) -> Swept:
        return Swept(*reply)

    return script("sweep_flights").call(keys, decode=decode, limit=limit, most=max_lost, lease=lease, now=now)


def set_aside(keys: Keys, incarnation: str, field: int, reason: str) -> Call[bool]:
    """Move a taken message that cannot be read to the list of such messages."""
    return script("set_aside").call(
        keys, decode=bool, incarnation=incarnation, field=str(field), reason=reason
    )


def is_current(keys: Keys, execution: str, seq: int, attempt: int) -> Call[bool]:
    """Whether this attempt of an activity is still wanted: its step is open, and no later attempt took
    its place.
    """

    def decode(reply: Any) -> bool:
        return reply is not None and reply.partition(b"|")[0] == str(attempt).encode()

    return command("HGET", keys.open(execution), str(seq), decode=decode)


def begin(
    keys: Keys, execution: str, seq: int, attempt: int, token: str, *, again: bool, now: int = 0
) -> Call[bool]:
    """An attempt starts on kombu's own transport: False if it is not wanted, or another copy of it runs.

    `again`: the message was delivered before, so whoever ran it may be dead. One `token` is one start.
    """
    return script("begin").call(
        keys, execution=execution, seq=str(seq), attempt=str(attempt), token=token, again=again, now=now,
        decode=bool, idempotent=True,
    )  # fmt: skip


def forget(keys: Keys, incarnation: str, lease: int, *, max_lost: int = MAX_LOST) -> Call[set[int]]:
    """End the incarnation of a process that died: everything it holds returns, see `sweep_flights`."""
    return adopt(keys, incarnation, "", lease=lease, dead=True, max_lost=max_lost)


def _texts(fields: Iterable[int]) -> list[str]:
    return [str(field) for field in fields]


def _pair(reply: Any) -> tuple[int, int]:
    return int(reply[0]), int(reply[1])
