"""Calls on instances by clients: start, events, suspend, resume, cancel, terminate, purge, restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .keys import Keys
from .records import StartReply, StartRequest, new_execution
from .scripts import Call, command, script

__all__ = [
    "cancel",
    "children",
    "purge",
    "raise_event",
    "restart",
    "resume",
    "start",
    "suspend",
    "terminate",
]

_done = bool


def _start_reply(reply: Any) -> StartReply:
    return StartReply(reply[0].decode(), reply[1].decode(), reply[2] == 1)


def start(keys: Keys, request: StartRequest, now: int = 0) -> Call[StartReply]:
    """Start an instance. Sent twice, the same request starts one instance and answers the same.

    Raises InstanceExistsError if the id runs and `on_conflict` is "fail".
    """
    return script("start").call(keys, req=request, now=now, decode=_start_reply, idempotent=True)


def raise_event(
    keys: Keys,
    instance: str,
    text: bytes,
    dedup_key: str = "",
    payloads: Sequence[tuple[str, bytes]] = (),
    now: int = 0,
) -> Call[bool]:
    """Put an event (open text of an EventRaised) into an inbox; False if its dedup key was there before.

    InstanceNotFoundError, InstanceEndedError. Only with a dedup key may it be sent again after an error.
    """
    return script("raise_event").call(
        keys, instance=instance, text=text, dedup_key=dedup_key, payloads=list(payloads), now=now,
        decode=lambda reply: reply == 1, idempotent=bool(dedup_key),
    )  # fmt: skip


def suspend(keys: Keys, instance: str, reason: str = "", now: int = 0) -> Call[bool]:
    """Buffer everything but resume, cancel and terminate; False if it was suspended before."""
    return _control(keys, instance, "suspend", reason, now)


def resume(keys: Keys, instance: str, reason: str = "", now: int = 0) -> Call[bool]:
    """End a suspension; False if there was none."""
    return _control(keys, instance, "resume", reason, now)


def cancel(keys: Keys, instance: str, reason: str = "", now: int = 0) -> Call[bool]:
    """Ask for cancellation (and resume); False if one is already on its way."""
    return _control(keys, instance, "cancel", reason, now)


def _control(keys: Keys, instance: str, verb: str, reason: str, now: int) -> Call[bool]:
    return script("control").call(
        keys, instance=instance, verb=verb, reason=reason, now=now, decode=_done, idempotent=True
    )


def terminate(keys: Keys, instance: str, reason: str = "", now: int = 0) -> Call[bool]:
    """End it at once, whoever runs it. InstanceNotFoundError, InstanceEndedError."""
    return script("terminate").call(keys, instance=instance, reason=reason, now=now, decode=_done)


def purge(keys: Keys, instance: str, now: int = 0) -> Call[bool]:
    """Remove a finished instance; its children (see `children`) are the caller's matter.

    InstanceNotFoundError, InstanceNotEndedError.
    """
    return script("purge").call(keys, instance=instance, now=now, decode=_done)


def children(keys: Keys, instance: str, cursor: str = "0", count: int = 500) -> Call[tuple[str, list[str]]]:
    """Some children of an instance, of whichever run, and the cursor for more ("0": that was all).

    An id may come twice. One that has been purged, or replaced by an instance of its own, is not among them.
    """

    def decode(reply: Any) -> tuple[str, list[str]]:
        return str(int(reply[0])), [child.decode() for child in reply[1]]  # redis-py may have read the number

    return command("SSCAN", keys.below(instance), cursor, "COUNT", count, decode=decode)


def restart(keys: Keys, instance: str, new_id: str = "", reason: str = "", now: int = 0) -> Call[StartReply]:
    """Start a finished instance again with the same input, under the same id or a new one.

    The `reason` is in the new record and in the new run's first event.

    InstanceNotFoundError, InstanceNotEndedError; InstanceExistsError when `new_id` runs.
    """
    return script("restart").call(
        keys, instance=instance, new_id=new_id or instance, execution=new_execution(), reason=reason,
        now=now,
        decode=_start_reply, idempotent=True,
    )  # fmt: skip
