"""Calls of the audit: it looks through everything that has not ended, and finds what was lost.

What lost its wake source (an entry in a list of timers, say) is mended in the script and reported. A step
whose message is lost comes back as a `Suspect`: the caller makes its message anew from the history and
calls `resend`, which changes nothing when the step has moved on meanwhile. One walk for the whole hub: each
call answers when the next one is worth making.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .keys import Keys
from .scripts import Call, command, script
from .steps import deaths_in

__all__ = ["AuditReport", "Mended", "Suspect", "audit", "mended", "note_mended", "resend", "retime"]


class Mended(msgspec.Struct, frozen=True):
    """One thing that the script put right: `kind` is the name under which it is counted."""

    kind: str
    instance: str
    seq: str = ""  # of the step, or empty for the instance as a whole


class Suspect(msgspec.Struct, frozen=True):
    """An open step that nothing will ever move, by `kind`.

    `message`: queued, its message gone. `run`: running, nobody holds its message. `retry`: parked, its
    message gone. `timer`: in no list of timers.
    """

    kind: str
    instance: str
    execution: str
    seq: int
    state: str  # the field of the step, word for word
    count: int  # how often its message was sent again

    @property
    def attempt(self) -> int:
        """The attempt that is open; 0 for a timer."""
        word = self.state.partition("|")[0]
        return int(word) if word.isdigit() else 0

    @property
    def lost(self) -> int:
        """How many processes died in a row while they ran the step."""
        return deaths_in(self.state)


class AuditReport(msgspec.Struct, frozen=True):
    """What one bounded call found; the next one is due after `wait` ms."""

    wait: int
    mended: list[Mended] = []
    suspects: list[Suspect] = []


def audit(
    keys: Keys, *, stock: bool = False, limit: int = 100, most: int = 50, now: int = 0
) -> Call[AuditReport]:
    """Look at about `limit` instances; answers at most `most` suspects. Nothing if it is not due.

    `stock`: messages are taken by kombu's own transport, which marks nothing when it takes them.
    """
    return script("audit").call(
        keys, stock=stock, limit=limit, most=most, now=now, decode=_report, idempotent=True
    )


def _report(reply: Any) -> AuditReport:
    wait, mends, suspects = reply
    return AuditReport(
        int(wait),
        [Mended(kind.decode(), instance.decode(), seq.decode()) for kind, instance, seq in mends],
        [
            Suspect(s[0].decode(), s[1].decode(), s[2].decode(), int(s[3]), s[4].decode(), int(s[5]))
            for s in suspects
        ],
    )


def resend(keys: Keys, suspect: Suspect, queue_key: str, message: bytes, now: int = 0) -> Call[str]:
    """Put this message on the queue, for the step as it was seen: "OK", or "GONE" (it has moved on).

    "NOTED": of an older release; only its place in this queue was written down. ClashError: no queue.
    """
    return script("resend").call(
        keys, instance=suspect.instance, execution=suspect.execution, seq=str(suspect.seq),
        state=suspect.state, queue_key=queue_key, message=message, now=now,
        decode=bytes.decode, idempotent=True,
    )  # fmt: skip


def retime(keys: Keys, suspect: Suspect, due: int) -> Call[str]:
    """List an open timer again, due at that time in ms: "OK", or "GONE" (closed, or listed)."""
    return script("retime").call(
        keys, instance=suspect.instance, execution=suspect.execution, seq=str(suspect.seq), due=due,
        decode=bytes.decode, idempotent=True,
    )  # fmt: skip


def mended(keys: Keys) -> Call[dict[str, int]]:
    """How much was ever mended in this hub, by kind."""

    def decode(reply: Any) -> dict[str, int]:
        pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        return {kind.decode(): int(n) for kind, n in pairs}

    return command("HGETALL", keys.path("mended"), decode=decode)


def note_mended(keys: Keys, kind: str) -> Call[int]:
    """Count one more of this kind."""
    return command("HINCRBY", keys.path("mended"), kind, 1, decode=int, idempotent=False)
