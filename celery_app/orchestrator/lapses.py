"""Deadlines of activity attempts that have passed: the attempt has failed with a time-out, and its policy
decides. So does it for an attempt under which too many worker processes died in a row (kind `l`).

The sweep finds them, on whichever orchestrator runs it. What the step calls and how it is to be retried is
read from the instance's history (see opened.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celeriac.orchestrations.errors import (
    ActivityTimeoutError,
    ActivityWorkerLostError,
    CeleriacError,
    SealedPayloadError,
    failure_from,
)

from .. import retrying
from ..messages import Step, TaskId
from ..sealing import Seal
from ..store import Store
from ..store.records import Lapsed
from .chores import Clock
from .opened import OpenedSteps

__all__ = ["Judge", "Lapses"]

logger = logging.getLogger("celeriac.orchestrator")

_WHAT = {
    "c": "ran longer than its timeout of {timeout:g} s",
    "s": "was not started by any worker within its schedule_to_start of {schedule_to_start:g} s",
    "h": "did not send a heartbeat within {heartbeat:g} s",
}


class Judge:
    """Ends attempts whose failure was found by nobody who ran them."""

    def __init__(
        self, store: Store, maker: retrying.MessageMaker, seal: Seal, clock: Clock, max_lost: int
    ) -> None:
        self._store, self._maker, self._clock, self._max_lost = store, maker, clock, max_lost
        self._seal = seal

    def fail(self, step: Step, error: CeleriacError) -> bool:
        """The attempt has failed with this error; its policy decides, the log says so. False if it had
        ended meanwhile, or nothing could be written.
        """
        failure, now = failure_from(error), self._clock.now()
        again = retrying.judge(step, failure, now, max_lost=self._max_lost, seal=self._seal)
        try:
            call = retrying.failed(self._store.keys, self._maker, self._seal, step, failure, again, now)
            written = self._store.run(call) == "OK"
        except CeleriacError as refused:
            logger.info("a failure of %s was not recorded: %s", step.task, refused)
            return False
        if written:
            next_one = f"the next one follows in {again.delay / 1000:.1f} s" if again else "it was the last"
            where = (step.task.attempt, step.task.seq, step.task.instance)
            logger.warning("attempt %d of step %d of %s failed: %s; %s", *where, error, next_one)
        return written


class Lapses:
    """Judges lapsed attempts."""

    def __init__(self, store: Store, judge: Judge, seal: Seal, max_lost: int) -> None:
        self._judge, self._max_lost = judge, max_lost
        self._opened = OpenedSteps(store, seal)

    def judge(self, lapsed: Sequence[Lapsed]) -> None:
        """Park the next attempt of each, or end its step. The scripts leave alone what ended meanwhile."""
        seqs: dict[str, set[int]] = {}
        for one in lapsed:
            seqs.setdefault(one.instance, set()).add(one.seq)
        openers = self._opened.openers(seqs)
        for one in lapsed:
            task = TaskId(one.execution, one.seq, one.attempt, one.instance)
            lost = self._max_lost if one.kind == "l" else 0
            try:
                step = self._opened.step(task, openers.get((one.instance, one.seq)), lost)
            except SealedPayloadError as error:  # handed out again, to whoever sweeps then
                logger.error("a deadline of %s cannot be judged here: %s", task, error)
                continue
            if step is not None:
                self._judge.fail(step, self._error(one, step))

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
