"""Deadlines of activity attempts that have passed: the attempt has failed with a time-out, and its policy
decides. So does it for an attempt under which too many worker processes died in a row (kind `l`).

The sweep finds them, on whichever orchestrator runs it. What the step calls and how it is to be retried is
read from the instance's history: this is rare, so nothing is kept for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celeriac.orchestrations.errors import (
    ActivityTimeoutError,
    ActivityWorkerLostError,
    CeleriacError,
    failure_from,
)
from celeriac.orchestrations.history import GroupScheduled, TaskScheduled, decode_event

from .. import retrying
from ..messages import GroupRef, Notes, Step, StepHeader, TaskId
from ..store import Store, command
from ..store.records import Lapsed
from .chores import Clock
from .payloads import PARTS_CHUNK, decode_parts, fields_of
from .reading import Reader

logger = logging.getLogger("celeriac.orchestrator")

_WHAT = {
    "c": "ran longer than its timeout of {timeout:g} s",
    "s": "was not started by any worker within its schedule_to_start of {schedule_to_start:g} s",
    "h": "did not send a heartbeat within {heartbeat:g} s",
}


class Lapses:
    """Judges lapsed attempts."""

    def __init__(self, store: Store, emitter: retrying.MessageMaker, clock: Clock, max_lost: int) -> None:
        self._store, self._emitter, self._clock, self._max_lost = store, emitter, clock, max_lost
        self._reader = Reader(store)

    def judge(self, lapsed: Sequence[Lapsed]) -> None:
        """Park the next attempt of each, or end its step. The scripts leave alone what ended meanwhile."""
        for one in lapsed:
            step = self._step(one)
            if step is None:
                continue
            failure, now = failure_from(self._error(one, step)), self._clock.now()
            again = retrying.judge(step, failure, now, max_lost=self._max_lost)
            try:
                self._store.run(retrying.failed(self._store.keys, self._emitter, step, failure, again, now))
            except CeleriacError as refused:
                logger.info("a time-out of %s was not recorded: %s", step.task, refused)

    def _error(self, one: Lapsed, step: Step) -> CeleriacError:
        if one.kind == "l":
            return ActivityWorkerLostError(
                f"{self._max_lost + 1} worker processes died in a row running the activity {step.name}. "
                "Did it use up their memory, or call os._exit?"
            )
        limits = {
            name: getattr(step.header.options, name) / 1000
            for name in ("timeout", "schedule_to_start", "heartbeat")
        }
        return ActivityTimeoutError(f"the activity {step.name} {_WHAT[one.kind].format(**limits)}")

    def _step(self, lapsed: Lapsed) -> Step | None:
        """The step as its command says; None when the history no longer has it."""
        task = TaskId(lapsed.execution, lapsed.seq, lapsed.attempt, lapsed.instance)
        notes = Notes(lost=self._max_lost) if lapsed.kind == "l" else Notes()
        items = self._store.run(command("LRANGE", self._store.keys.hist(lapsed.instance), 0, -1))
        for event in map(decode_event, items):
            if isinstance(event, TaskScheduled) and event.seq == lapsed.seq:
                return Step(task, event.name, event.input, StepHeader(event.options, event.at, 0, notes))
            if isinstance(event, GroupScheduled) and event.seq <= lapsed.seq < event.seq + event.size:
                return self._part(task, event, notes)
        return None

    def _part(self, task: TaskId, group: GroupScheduled, notes: Notes) -> Step:
        index = task.seq - group.seq
        if group.parts.startswith("@"):
            field = fields_of(group.parts)[index // PARTS_CHUNK]
            part = decode_parts(self._reader.texts(task.execution, [field])[0])[index % PARTS_CHUNK]
        else:
            part = decode_parts(group.parts)[index]
        header = StepHeader(group.options[part.options], group.at, group.size, notes)
        reference = GroupRef(f"{task.execution}:{group.seq}", index, group.size)
        return Step(task, part.name, part.input, header, reference)
