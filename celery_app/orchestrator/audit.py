"""Mends what the audit finds lost: sends a step's message again, lists a timer again, and says so in the log.

The script (see store/audit.py) has mended already what it could by itself. A message is made anew from the
history, for the same attempt and with a new delivery tag. One that is lost again and again is no accident:
after `Settings.max_resends` times the attempt fails with `ActivityMessageLostError`, and its retry policy
decides. (Not on kombu's own transport, where a message may well wait in a worker's memory for hours.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celeriac.orchestrations.errors import ActivityMessageLostError, CeleriacError
from celeriac.orchestrations.history import TimerCreated

from ..messages import Step, TaskId
from ..retrying import MessageMaker
from ..sealing import seal_of
from ..settings import Settings
from ..store import Store, audit
from ..store.audit import AuditReport, Mended, Suspect
from .lapses import Judge
from .opened import OpenedSteps, Opener

__all__ = ["Audit"]

logger = logging.getLogger("celeriac.orchestrator")

NAMED = 5  # mended things that a line of the log names
REMEMBERED = 1000  # what could not be mended, so that the log says it once
_WHAT = {
    "ready": "was ready and in no list, or by a clock that was set back",
    "inbox": "had unread events and was not ready",
    "claim": "was claimed by nobody who is known",
    "start": "its delayed start was in no list of timers",
    "timer": "its timer was in no list of timers",
    "child": "its sub-orchestration ended without a word",
    "window": "its fan-out waited for a window nobody asked for",
    "flight": "its message was held by a process that is not known",
    "judge": "it was given up and nobody was asked to judge it",
    "message": "its message was lost and is sent again",
    "run": "nobody holds the message of this running attempt; it is sent again",
    "retry": "its parked retry was lost",
}


class Audit:
    """Acts on the reports of the audit."""

    def __init__(self, store: Store, maker: MessageMaker, judge: Judge, settings: Settings) -> None:
        self._store, self._maker, self._judge = store, maker, judge
        self._most = settings.max_resends if settings.transport != "stock" else None
        self._opened = OpenedSteps(store, seal_of(settings))
        self._hopeless: dict[tuple[str, str, int], None] = {}

    def mend(self, report: AuditReport) -> None:
        """Mend what is suspect. What moved on meanwhile is left alone; what Redis refuses is found again."""
        done = [*report.mended, *self._mend_steps(report.suspects)]
        if done:
            named = ", ".join(map(_said, done[:NAMED]))
            more = f", and {len(done) - NAMED} more" if len(done) > NAMED else ""
            logger.warning("the audit mended %d things: %s%s", len(done), named, more)

    def _mend_steps(self, suspects: Sequence[Suspect]) -> list[Mended]:
        seqs: dict[str, set[int]] = {}
        for one in suspects:
            seqs.setdefault(one.instance, set()).add(one.seq)
        openers, done = self._opened.openers(seqs), []
        for one in suspects:
            try:
                if self._mend(one, openers.get((one.instance, one.seq))):
                    done.append(Mended(one.kind, one.instance, str(one.seq)))
            except CeleriacError as error:
                self._say_once(one, str(error))
        return done

    def _mend(self, suspect: Suspect, opener: Opener | None) -> bool:
        """Whether it was mended."""
        if isinstance(opener, TimerCreated):
            return self._store.run(audit.retime(self._store.keys, suspect, opener.due)) == "OK"
        task = TaskId(suspect.execution, suspect.seq, suspect.attempt, suspect.instance)
        step = self._opened.step(task, opener, suspect.lost)
        if step is None:
            self._say_once(suspect, "its history does not say what opened it")
            return False
        if self._most is not None and suspect.count >= self._most:
            self._give_up(step, suspect)
            return False
        key, message = self._maker.activity_message(
            step.name,
            str(task),
            task.step,
            step.call,
            step.header.options,
            step.header.first_at,
            step.group,
            step.header.notes,
        )
        return self._store.run(audit.resend(self._store.keys, suspect, key, message)) == "OK"

    def _give_up(self, step: Step, suspect: Suspect) -> None:
        error = ActivityMessageLostError(
            f"the message of activity {step.name} was lost and sent again {suspect.count} times; "
            "does another program take from its queue, or does the worker set it aside as unreadable?"
        )
        if self._judge.fail(step, error):
            self._store.run(audit.note_mended(self._store.keys, "given_up"))

    def _say_once(self, suspect: Suspect, problem: str) -> None:
        which = (suspect.instance, suspect.execution, suspect.seq)
        if which not in self._hopeless:
            self._hopeless[which] = None
            if len(self._hopeless) > REMEMBERED:
                del self._hopeless[next(iter(self._hopeless))]
            logger.error(
                "step %d of %s is lost (%s) and cannot be mended: %s",
                suspect.seq, suspect.instance, suspect.kind, problem,
            )  # fmt: skip


def _said(one: Mended) -> str:
    where = f"{one.instance} step {one.seq}" if one.seq else one.instance
    return f"{where} ({_WHAT[one.kind]})"
