"""Calls of queue triggers: messages of a user's Redis list become instances or events, each exactly once.

Producers LPUSH to the list, listeners take from its tail. A taken message stays with its listener (an
incarnation `t...` that beats) until it is started, raised, or given back; a dead listener's messages go back
by the sweep, with a try counted. After `max_tries` a message goes to `{queue}-poison`, behind a line of JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .keys import Keys
from .records import StartReply, StartRequest
from .scripts import Call, blocking, command, script

__all__ = [
    "Poisoned",
    "TakenMessage",
    "back",
    "poisoned",
    "push",
    "raise_from",
    "redrive",
    "start_from",
    "strike",
    "take",
    "wait",
]


_reasons = msgspec.json.Decoder(dict[str, Any])


class TakenMessage(msgspec.Struct, frozen=True):
    """A message in the hands of a listener; `tries` counts the ones that failed before."""

    number: str
    tries: int
    message: bytes
    id: str = ""  # the same at every take of this message


class Poisoned(msgspec.Struct, frozen=True):
    """An entry of a poison list."""

    reason: dict[str, Any]
    message: bytes


def take(
    keys: Keys, listener: str, queue: str, n_base: int, limit: int, now: int = 0
) -> Call[list[TakenMessage]]:
    """Take up to `limit` messages, numbered from n_base, each used once. FencedError: beat first."""

    def decode(reply: Any) -> list[TakenMessage]:
        return [TakenMessage(r[0].decode(), int(r[1]), r[2], r[3].decode()) for r in reply]

    return script("trigger_take").call(
        keys, listener=listener, queue=queue, n_base=n_base, limit=limit, now=now, decode=decode
    )


def wait(queue: str, timeout: float) -> Call[bool]:
    """Block until the list is not empty, at most `timeout` s (under the socket timeout); takes nothing."""
    return command(
        "BLMOVE", queue, queue, "RIGHT", "RIGHT", blocking(timeout), decode=lambda reply: reply is not None
    )


def start_from(
    keys: Keys, listener: str, number: str, request: StartRequest, now: int = 0
) -> Call[StartReply]:
    """The message becomes an instance. InstanceExistsError leaves it taken; GoneError: it is not yours."""

    def decode(reply: Any) -> StartReply:
        return StartReply(reply[0].decode(), reply[1].decode(), reply[2] == 1)

    return script("trigger_start").call(
        keys, listener=listener, number=number, req=request, now=now, decode=decode
    )


def raise_from(
    keys: Keys,
    listener: str,
    number: str,
    instance: str,
    text: bytes,
    dedup_key: str = "",
    payloads: Sequence[tuple[str, bytes]] = (),
    now: int = 0,
) -> Call[bool]:
    """The message becomes an event (open text) of an instance; when that is refused it is still taken."""
    return script("trigger_event").call(
        keys, listener=listener, number=number, instance=instance, text=text, dedup_key=dedup_key,
        payloads=list(payloads), now=now, decode=bool,
    )  # fmt: skip


def back(
    keys: Keys, listener: str, number: str, max_tries: int, reason: dict[str, Any], *, strike: bool = True
) -> Call[str]:
    """A try failed (strike=False: was not made): "AGAIN", "POISON" (`reason` is kept there) or "GONE"."""
    line = msgspec.json.encode(reason)
    return script("trigger_back").call(
        keys, listener=listener, number=number, max_tries=max_tries, reason=line, strike=strike,
        decode=bytes.decode, idempotent=True,
    )  # fmt: skip


def strike(keys: Keys, listener: str, number: str) -> Call[int]:
    """A try failed, the listener keeps the message: how many tries failed so far, -1 if it lost it."""
    return script("trigger_strike").call(keys, listener=listener, number=number, decode=int)


def push(queue: str, *messages: bytes) -> Call[int]:
    """What any producer does: put at the head of the list."""
    return command("LPUSH", queue, *messages, idempotent=False)


def poisoned(queue: str, start: int = 0, stop: int = 99) -> Call[list[Poisoned]]:
    """Entries of the poison list, oldest first; `stop` is included."""

    def decode(reply: Any) -> list[Poisoned]:
        return [_poisoned(entry) for entry in reversed(reply)]

    return command("LRANGE", f"{queue}-poison", -stop - 1, -start - 1, decode=decode)


def _poisoned(entry: bytes) -> Poisoned:
    """One entry; one that somebody else put there has no line with a reason."""
    line, _, message = entry.partition(b"\n")
    try:
        return Poisoned(_reasons.decode(line), message)
    except msgspec.DecodeError:
        return Poisoned({}, entry)


def redrive(keys: Keys, queue: str, limit: int = 100) -> Call[int]:
    """Move up to `limit` poisoned messages back to the end of their queue; their tries start anew."""
    return script("redrive").call(keys, queue=queue, limit=limit, decode=int)
