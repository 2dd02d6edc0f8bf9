"""Calls of activity workers about one step: arm its deadlines, complete and retry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .keys import Keys
from .scripts import Call, command, script

__all__ = ["arm", "complete", "deaths", "deaths_in", "kept_notes", "last_note", "retry"]

_DEATHS = re.compile(r"\|l(\d+)(?:\|g\d+)?$")


def _word(reply: Any) -> str:
    return reply.decode()


def complete(
    keys: Keys,
    instance: str,
    execution: str,
    seq: int,
    attempt: int,
    *,
    success: bool,
    text: bytes,
    index: int = -1,
    payloads: Sequence[tuple[str, bytes]] = (),
    now: int = 0,
) -> Call[str]:
    """Record how an attempt ended: "OK", "GONE" (step closed) or "STALE" (a failure of a past attempt).

    `text` is the open text of TaskCompleted or TaskFailed; for a part of a group (its `index` given) that
    of a PartOutcome. `payloads` are fields that it refers to. Sent twice, the second time says GONE.
    """
    return script("complete").call(
        keys, instance=instance, execution=execution, seq=str(seq), attempt=str(attempt), success=success,
        text=text, index=index, payloads=list(payloads), now=now, decode=_word, idempotent=True,
    )  # fmt: skip


def retry(
    keys: Keys,
    instance: str,
    execution: str,
    seq: int,
    attempt: int,
    *,
    due: int,
    queue_key: str,
    message: bytes,
    failed: bytes,
    start_by: int = 0,
    lost: int = 0,
    notes: str = "",
    now: int = 0,
) -> Call[str]:
    """Park attempt `attempt + 1` (its ready-made `message`) until `due`: "OK", "GONE" or "STALE".

    `failed` is the JSON of the Attempt that failed; `start_by` the next one's deadline for its start, or 0;
    `lost` how many processes died in a row under the step; `notes` what else its message says of earlier
    attempts (`Notes.kept`), kept for when that is lost.
    """
    return script("retry").call(
        keys, instance=instance, execution=execution, seq=str(seq), attempt=attempt, due=due,
        queue_key=queue_key, message=message, failed=failed, start_by=start_by, lost=lost, notes=notes,
        now=now, decode=_word, idempotent=True,
    )  # fmt: skip


def arm(
    keys: Keys,
    instance: str,
    execution: str,
    seq: int,
    attempt: int,
    *,
    close_in: int = 0,
    beat_in: int = 0,
    starts: bool = True,
    note: str = "",
    now: int = 0,
) -> Call[bool]:
    """The attempt starts, or else is alive: it must end within `close_in` ms and beat within `beat_in` ms.

    A sign of life (not `starts`) only moves the heartbeat's deadline that there is. 0 leaves a deadline as it
    is. `note` is the JSON of what the heartbeat tells. False: this attempt is no longer wanted.
    """
    return script("arm").call(
        keys, instance=instance, execution=execution, seq=str(seq), attempt=str(attempt),
        close_in=close_in, beat_in=beat_in, starts=starts, note=note, now=now,
        decode=bool, idempotent=True,
    )  # fmt: skip


def last_note(keys: Keys, execution: str, seq: int) -> Call[bytes | None]:
    """The JSON that the last heartbeat of the step told, by whichever attempt; None without any."""
    return command("HGET", keys.open(execution), f"h{seq}")


def kept_notes(keys: Keys, execution: str, seq: int) -> Call[str]:
    """The `notes` that the last `retry` of the step kept; '' without any."""
    return command("HGET", keys.open(execution), f"n{seq}", decode=_text)


def deaths(keys: Keys, execution: str, seq: int) -> Call[int]:
    """How many processes died in a row while they ran the open step; 0 for one that has ended."""

    def decode(reply: Any) -> int:
        return deaths_in(_text(reply))

    return command("HGET", keys.open(execution), str(seq), decode=decode)


def deaths_in(state: str) -> int:
    """The same, from the field of the step."""
    found = _DEATHS.search(state)
    return int(found.group(1)) if found else 0


def _text(reply: Any) -> str:
    return (reply or b"").decode()
