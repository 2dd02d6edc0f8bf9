"""Calls of orchestrator workers: claim, commit, release, hand back, timers and the sweep."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from celeriac.orchestrations.errors import (
    CeleriacError,
    FailureDetails,
    InstanceExistsError,
    qualified_name,
)
from celeriac.orchestrations.history import SubOrchestrationInstanceFailed

from .errors import LimitError, error_for
from .keys import Keys
from .records import ChildStart, Claimed, Commit, CommitReply, Lapsed, SweepReport, open_text
from .scripts import Call, script
from .wire import joined

__all__ = [
    "MAX_BYTES", "MAX_ITEMS", "accuse", "claim", "commit", "commit_all", "fire_timers", "hand_back", "packed",
    "release", "rouse", "sweep",
]  # fmt: skip

MAX_ITEMS = 1000  # commands and messages in one commit; each activity is two
MAX_BYTES = 4 * 2**20
MAX_REASON = 4096  # characters
MOST_ITEMS, MOST_BYTES = 20 * MAX_ITEMS, 8 * MAX_BYTES  # of one single step: it cannot be split

_BASES = tuple(qualified_name(c) for c in InstanceExistsError.__mro__[1:] if c is not object)


def _claimed(reply: Any) -> list[Claimed]:
    return [
        Claimed(
            instance=r[0].decode(),
            claim=r[1].decode(),
            execution=r[2].decode(),
            name=r[3].decode(),
            version=r[4].decode(),
            status=r[5].decode(),
            suspended=r[6] == b"1",
            run=int(r[7]),
            parent=r[8].decode(),
            crashes=int(r[9]),
            alone=r[10] == 1,
            history_length=r[11],
            controls=r[12],
            inbox=r[13],
            inbox_left=r[14],
            parent_seq=int(r[15]),
            last=r[16].decode(),
        )
        for r in reply
    ]


def claim(keys: Keys, incarnation: str, n_base: int, limit: int, now: int = 0) -> Call[list[Claimed]]:
    """Claim up to `limit` ready instances, oldest first; their claims count up from `incarnation.n_base`.

    Never use a number again. The incarnation must beat (FencedError). After a lost reply, `hand_back`
    with what you know you hold returns the rest at once. A suspect instance comes alone.
    """
    return script("claim").call(
        keys, incarnation=incarnation, n_base=n_base, limit=limit, now=now, decode=_claimed
    )


def _refused(child: ChildStart) -> bytes:
    failure = FailureDetails(
        error_type=qualified_name(InstanceExistsError),
        message=f"an instance with the id {child.instance} is still running",
        bases=_BASES,
    )
    return open_text(SubOrchestrationInstanceFailed(seq=child.seq, failure=failure))


def _commit_reply(reply: Any) -> CommitReply:
    return CommitReply(reply[0] == 1, [target.decode() for target in reply[1]], reply[2] == 1)


def commit(keys: Keys, turn: Commit, now: int = 0) -> Call[CommitReply]:
    """Apply one turn. FencedError: the claim was lost, nothing was written, drop the live execution.

    Sent twice it changes nothing the second time. Everything checked first: ClashError if the key of a
    queue holds another type, LimitError if it carries far more than MAX_ITEMS or MAX_BYTES.
    """
    for child in turn.children:
        child.copy_from = turn.execution
        if not child.detached:
            child.parent, child.parent_execution, child.parent_seq = turn.instance, turn.execution, child.seq
            child.refused = _refused(child)
    call = script("commit").call(keys, turns=[turn], now=now, decode=_commit_reply, idempotent=True)
    size = len(packed(call))
    if turn.items > MOST_ITEMS or size > MOST_BYTES:
        raise LimitError(
            f"the commit of {turn.instance} carries {turn.items} items in {size} bytes; "
            f"at most {MOST_ITEMS} and {MOST_BYTES} are possible"
        )
    return call


def packed(commit: Call[CommitReply]) -> bytes:
    """What a call of `commit` carries."""
    assert commit.script is not None
    return commit.args[commit.script.place("turns")]


def commit_all(commits: Sequence[Call[CommitReply]]) -> Call[list[CommitReply | CeleriacError]]:
    """Several of `commit` in one call (it is they that are bounded: keep their sum as small as one may be).

    Each is applied or refused for itself. The call as a whole is refused where Redis takes no writes, or at
    a defect: then send each by itself. What had been applied all the same is answered and changes nothing.
    """
    first = commits[0]
    assert first.script is not None
    place = first.script.place("turns")
    words = list(first.args)
    words[place] = joined([packed(commit) for commit in commits])
    return Call(tuple(words), _commit_replies, True, first.script)


def _commit_replies(replies: Any) -> list[CommitReply | CeleriacError]:
    return [
        error_for(reply.decode().lstrip("-")) if isinstance(reply, bytes) else _commit_reply(reply)
        for reply in replies
    ]


def fire_timers(keys: Keys, limit: int = 100, now: int = 0) -> Call[tuple[int, int]]:
    """Fire what is due, at most `limit`: (how many, when the next is due in ms or 0)."""
    return script("fire_timers").call(
        keys, limit=limit, now=now, decode=lambda r: (int(r[0]), int(r[1])), idempotent=True
    )


def hand_back(
    keys: Keys, incarnation: str, limit: int = 1000, known: Collection[str] = (), now: int = 0
) -> Call[int]:
    """Give up to `limit` claims back at once, without a strike, except those of the instances `known`."""
    return script("hand_back").call(
        keys, incarnation=incarnation, limit=limit, known=list(known), now=now, decode=int, idempotent=True
    )


def release(
    keys: Keys, instance: str, claim: str, delay: int, reason: str,
    *, charge: bool = False, most: int = 0, suspend: bool = False, now: int = 0,
) -> Call[bool]:  # fmt: skip
    """Give one claim back without a commit, claimable again after `delay` ms; `reason` is shown.

    `charge` counts the turn against the instance, like a process that died while it ran it alone. With
    `most` of these (0: never), or with `suspend`, it is suspended in the same call; True if it was.
    """
    return script("release").call(
        keys, instance=instance, claim=claim, delay=delay, reason=reason[:MAX_REASON], charge=charge,
        most=most, rest=suspend, now=now, decode=lambda reply: reply == 2,
    )  # fmt: skip


def rouse(keys: Keys, limit: int = 1000, now: int = 0) -> Call[int]:
    """Make instances that wait to be tried again claimable now, at most `limit`; how many."""
    return script("rouse").call(keys, limit=limit, now=now, decode=int, idempotent=True)


def accuse(keys: Keys, instance: str, execution: str) -> Call[bool]:
    """Have this run claimed alone next time; False if it has ended."""
    return script("accuse").call(keys, instance=instance, execution=execution, decode=bool, idempotent=True)


def sweep(keys: Keys, limit: int = 200, lease: int = 10_000, now: int = 0) -> Call[SweepReport]:
    """Give back what the dead held, hand out passed deadlines, close children of ended parents.

    A deadline is handed out again after `lease` ms unless its attempt has been completed or retried.
    After a silence, in which nobody could beat, nothing that passed in it is judged for a lease.
    The dead are orchestrators and listeners; dead workers are `flights.sweep_flights`'s.
    """
    return script("sweep").call(keys, limit=limit, lease=lease, now=now, decode=_swept, idempotent=True)


def _swept(reply: Any) -> SweepReport:
    return SweepReport(
        claims_back=reply[0],
        messages_back=reply[1],
        closed=reply[2],
        lapsed=[_lapsed(member.decode()) for member in reply[3]],
        dead=[incarnation.decode() for incarnation in reply[4]],
        more=reply[5] == 1,
    )


def _lapsed(member: str) -> Lapsed:
    kind, execution, seq, attempt, instance = member.split(":", 4)
    return Lapsed(kind, execution, int(seq), int(attempt), instance)
