"""What looks like chance or the outside world to an orchestrator, and is the same on every replay."""

from __future__ import annotations

import hashlib
import logging
import random
import uuid
from collections.abc import MutableMapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import Run

__all__ = ["Chance", "ReplaySafeLogger", "milliseconds", "moment"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def moment(at: int) -> datetime:
    """Milliseconds since the epoch as an aware UTC time."""
    return _EPOCH + timedelta(milliseconds=at)


def milliseconds(what: str, time: datetime | timedelta | float, now: int) -> int:
    """When `time` is, in milliseconds since the epoch: a point in time or a delay (number: seconds).

    Rounded up, so that a timer is never early.
    """
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(
                f"{what}: {time!r} has no time zone; "
                "use ctx.current_utc_datetime + timedelta(...) or give a tzinfo"
            )
        return -((_EPOCH - time) // _MS)
    if isinstance(time, int | float) and not isinstance(time, bool):
        time = timedelta(seconds=time)
    if not isinstance(time, timedelta):
        raise TypeError(f"{what} takes a datetime or a timedelta, not {time!r}")
    return now - (-time // _MS)


class Chance:
    """uuids and random numbers derived from the execution id."""

    __slots__ = ("_random", "_seed", "_uuids")

    def __init__(self, execution: str) -> None:
        self._seed = execution
        self._uuids = 0
        self._random: random.Random | None = None

    def uuid(self) -> uuid.UUID:
        """The next uuid."""
        self._uuids += 1
        digest = hashlib.sha256(f"{self._seed}/uuid/{self._uuids}".encode()).digest()
        return uuid.UUID(bytes=digest[:16], version=4)

    def random(self) -> random.Random:
        """The generator, seeded once."""
        if self._random is None:
            digest = hashlib.sha256(f"{self._seed}/random".encode()).digest()
            self._random = random.Random(int.from_bytes(digest, "big"))
        return self._random


class ReplaySafeLogger(logging.LoggerAdapter[logging.Logger]):
    """Silent while replaying; puts the instance id before each line and into `record.instance_id`."""

    def __init__(self, name: str, run: Run) -> None:
        super().__init__(logging.getLogger(f"celeriac.orchestrator.{name}"), {"instance_id": run.instance})
        self._run = run

    def isEnabledFor(self, level: int) -> bool:
        """False while replaying, whatever the level."""
        return not self._run.replaying and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the instance id to the message and to `extra`."""
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return f"[{self._run.instance}] {msg}", kwargs
