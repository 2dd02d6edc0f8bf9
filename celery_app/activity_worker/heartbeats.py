"""`ActivityContext.heartbeat` in a worker: moves the attempt's deadline and keeps what it tells."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import CeleriacError, PayloadTooLargeError

from ..messages import Step
from ..store import steps
from .runtime import Runtime

__all__ = ["MOST", "Heartbeat"]

logger = logging.getLogger("celeriac.activity")

EVERY: Final = 1.0  # seconds; heartbeats that follow closer are not sent
MOST: Final = 4096  # bytes of JSON that a heartbeat may tell


class Heartbeat:
    """The heartbeats of one attempt. Asks Redis for nothing unless it is used."""

    def __init__(self, runtime: Runtime, step: Step) -> None:
        self._runtime, self._step = runtime, step
        interval = step.header.options.heartbeat
        self._every = min(EVERY, interval / 5000) if interval else EVERY
        self._sent = 0.0  # when
        self._told = ""  # the newest progress, and whether it is still to be sent
        self._unsent = False
        self._before: str | None = None  # what an earlier attempt told, once asked

    def __call__(self, progress: Any) -> None:
        """Tell that the attempt is alive, and how far it is unless `progress` is None."""
        if progress is not None:
            self.before()  # before it is written over
            self._told, self._unsent = _within(codec.encode(progress), self._step.name), True
        if not (self._step.header.options.heartbeat or self._unsent):
            return
        if time.monotonic() - self._sent >= self._every:
            self._send()

    def flush(self) -> None:
        """The attempt fails: what it told last is for the next one."""
        if self._unsent:
            self._send()

    def before(self) -> Any:
        """What an earlier attempt of the step told last; None when nothing, or when Redis does not say."""
        if self._before is None:
            task, store = self._step.task, self._runtime.store
            try:
                note = store.run(steps.last_note(store.keys, task.execution, task.seq))
                self._before = self._runtime.seal.clear(note.decode()) if note else ""
            except CeleriacError as error:
                logger.warning("cannot see the last heartbeat before %s: %s", task, error)
                return None
        return codec.decode(self._before or None)

    def _send(self) -> None:
        self._sent = time.monotonic()
        task, store = self._step.task, self._runtime.store
        try:
            note = self._runtime.seal.call(self._told) if self._unsent else ""
            call = steps.arm(
                store.keys, task.instance, task.execution, task.seq, task.attempt, starts=False,
                beat_in=self._step.header.options.heartbeat, note=note,
            )  # fmt: skip
            store.run(call)
            self._unsent = False
        except CeleriacError as error:
            logger.warning("a heartbeat of %s was not heard: %s", task, error)


def _within(text: str, name: str) -> str:
    if (size := len(text.encode())) > MOST:
        raise PayloadTooLargeError(
            f"the progress that a heartbeat of activity {name!r} tells is {size:,} bytes as JSON; at most "
            f"{MOST:,} are kept. Tell where it stands, not what it has."
        )
    return text
