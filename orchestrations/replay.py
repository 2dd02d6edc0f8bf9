"""The only loop: an orchestrator definition, a history and an inbox make a Turn. Nothing else counts.

Laws it keeps, whatever the author writes:

1. The same history and inbox give the same turn, in every process.
2. Going on with a live execution gives the turn that a replay of its history would give.
3. Events are applied one at a time, and the author's code runs until it blocks after each (a *step*);
   so the history does not depend on how the inbox was split into turns.
4. A recorded step that is repeated asks for what it asked for then, or NonDeterminismError says where.

An event for a step that is not open (cancelled, finished, of an earlier run) is dropped and leaves no
trace. Time per event does not depend on the length of the history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from .commands import describe
from .driver import Driver, cancellation
from .errors import AuthoringError, NonDeterminismError
from .history import (
    OUTSIDE,
    RULES,
    AnyEvent,
    CancelRequested,
    CommandEvent,
    ContinuedAsNew,
    EventRaised,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionResumed,
    ExecutionRewound,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    GroupCompleted,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TimerFired,
)
from .registry import OrchestratorDefinition
from .run import UNCHANGED, Payloads, Run, size_of
from .steps import Parts
from .turn import (
    Cancelled,
    Carried,
    Completed,
    ContinuedAsNewOutcome,
    Failed,
    Outcome,
    Terminated,
    Turn,
    Waiting,
)

__all__ = ["UNCHANGED", "Execution", "Payloads", "Turn", "replay"]

_OUTSIDE = frozenset(OUTSIDE)
_CARRIED = (EventRaised, CancelRequested, ExecutionSuspended, ExecutionResumed)


def replay(
    definition: OrchestratorDefinition,
    history: Sequence[AnyEvent],
    inbox: Sequence[AnyEvent],
    payloads: Payloads,
) -> Turn:
    """Repeat a history, apply an inbox, and let go of everything again."""
    execution = Execution(definition, payloads)
    try:
        execution.replay(history)
        return execution.advance(inbox)
    finally:
        execution.close()


class Execution:
    """One run of one instance, live: repeat its history once, then advance it as events come.

    After an exception from `replay` or `advance` it must be closed and forgotten. Close it in any case, so
    that an orchestrator's `finally` blocks run now and quietly and not whenever memory is collected.
    """

    def __init__(self, definition: OrchestratorDefinition, payloads: Payloads) -> None:
        self.definition = definition
        self.outcome: Outcome = Waiting()
        self._run = Run(payloads)
        self._driver = Driver(definition, self._run)
        self._suspended: bool | None = None

    @property
    def history_length(self) -> int:
        """How many events the history holds now."""
        return self._run.history_length

    @property
    def ended(self) -> bool:
        """True once this run is over."""
        return not isinstance(self.outcome, Waiting)

    @property
    def open_steps(self) -> int:
        """How many activities, timers and children are open; the parts of a fan-out count as one."""
        run = self._run
        parts = sum(len(group.tasks) for group in run.groups.values() if isinstance(group, Parts))
        return len(run.open) - parts + len(run.groups)

    def replay(self, history: Sequence[AnyEvent]) -> None:
        """Repeat recorded steps; raises NonDeterminismError where the code asks for something else."""
        run = self._run
        run.replaying = True
        index, size = 0, len(history)
        while index < size:
            event = history[index]
            index += 1
            if type(event) not in _OUTSIDE:
                seq, where = getattr(event, "seq", None), self.definition.where
                raise NonDeterminismError(seq, describe(event), "nothing: no event led to it", where)
            end = index
            while end < size and type(history[end]) not in _OUTSIDE:
                end += 1
            if not self._step(event, history[index:end]):
                self._refuse(event)
            run.compare(self._driver.where)
            run.end()
            run.history_length = index = end
        run.replaying = False
        self._reset()

    def advance(self, inbox: Sequence[AnyEvent]) -> Turn:
        """Apply outside events that are not in the history yet; may be called again and again."""
        run = self._run
        events: list[AnyEvent] = []
        consumed = 0
        for event in inbox:
            if self.ended:
                break
            consumed += 1
            if type(event) not in _OUTSIDE:
                raise ValueError(f"an inbox holds events from outside only, not {describe(event)}")
            if self._step(event, ()):
                commands = run.end()
                events.append(event if event.at == run.at else msgspec.structs.replace(event, at=run.at))
                events += commands
                run.history_length += len(commands)
        carried: tuple[Carried, ...] = ()
        if isinstance(self.outcome, ContinuedAsNewOutcome):
            kept = run.mailbox.leftovers() if self.outcome.preserve_events else []
            carried = (*kept, *(event for event in inbox[consumed:] if isinstance(event, _CARRIED)))
            consumed = len(inbox)
        turn = Turn(
            events, consumed, self.outcome, run.custom_status, tuple(run.closed),
            () if self.ended else tuple(run.dissolved), carried, self._suspended, tuple(run.dropped),
        )  # fmt: skip
        self._reset()
        return turn

    def close(self) -> None:
        """Let go of the author's code. Whatever it still asks for does not count."""
        self._driver.discard()

    def __del__(self) -> None:
        self.close()

    def _reset(self) -> None:
        run = self._run
        run.closed, run.dissolved, run.dropped, run.custom_status = [], [], [], UNCHANGED
        self._suspended = None

    # --- one event ---------------------------------------------------------------------------------

    def _step(self, event: AnyEvent, expected: Sequence[AnyEvent]) -> bool:
        """Apply one event and run the author's code until it blocks; False if the event is dropped."""
        run, driver = self._run, self._driver
        before = run.at
        run.begin(event.at if event.at > before else before, expected)
        if not _HANDLERS[type(event)](self, event):
            run.at = before
            run.history_length -= 1
            return False
        run.history_size += size_of(event)
        if driver.ready():
            self._resume(None)
        return True

    def _resume(self, error: BaseException | None) -> None:
        ended = self._driver.resume(error)
        if ended is not None:
            self._end(ended)

    def _end(self, outcome: Outcome) -> None:
        run = self._run
        self.outcome = outcome
        command: CommandEvent
        match outcome:
            case Completed(output):
                command = ExecutionCompleted(at=run.at, output=output)
            case Failed(failure):
                command = ExecutionFailed(at=run.at, failure=failure)
            case Cancelled(reason):
                command = ExecutionCancelled(at=run.at, reason=reason)
            case ContinuedAsNewOutcome(text, preserve):
                command = ContinuedAsNew(at=run.at, input=text, preserve_events=preserve)
            case Waiting() | Terminated():
                raise RuntimeError(f"{outcome!r} is not an end that the author's code can make")
        run.issue(command)
        run.over = True

    def _refuse(self, event: AnyEvent) -> None:
        """A recorded event found no open step: the code never asked for it, or has ended before it."""
        if self.ended:
            return
        raise NonDeterminismError(
            getattr(event, "seq", None), describe(event), "nothing that this belongs to", self._driver.where()
        )

    def _on_started(self, event: AnyEvent) -> bool:
        if not isinstance(event, ExecutionStarted) or self._driver.started is not None or self.ended:
            return False
        if event.rules > RULES:
            raise AuthoringError(
                f"instance {event.instance!r} was started under replay rules {event.rules}; this release "
                f"knows {RULES}: run it with the newer release"
            )
        run = self._run
        run.instance, run.execution, run.run = event.instance, event.execution, event.run
        failure = self._driver.start(event)
        if failure is not None:
            self._end(Failed(failure))
        else:
            self._resume(None)
        return True

    def _on_step(self, event: Any) -> bool:
        step = self._run.open.get(event.seq)
        if step is None or type(event) not in step._takes or self.ended:
            return False
        step._take(event)
        return True

    def _on_group(self, event: AnyEvent) -> bool:
        if not isinstance(event, GroupCompleted) or self.ended:
            return False
        group = self._run.groups.pop(event.seq, None)
        return group is not None and group._take_outcomes(event.seq, event.failed)

    def _on_raised(self, event: AnyEvent) -> bool:
        if not isinstance(event, EventRaised) or self.ended:
            return False
        self._run.mailbox.deliver(event, self._driver.awaited)
        return True

    def _on_cancel(self, event: AnyEvent) -> bool:
        """Raise at the await, once: a second request must not disturb the compensation."""
        if not isinstance(event, CancelRequested) or self.ended:
            return False
        if self._driver.cancelled is None:
            self._driver.cancelled = event.reason
            if self._driver.awaited is not None:
                run = self._run
                run.dissolved += [seq for seq, group in run.groups.items() if isinstance(group, Parts)]
                self._resume(cancellation(event.reason))
        return True

    def _on_note(self, event: AnyEvent) -> bool:
        if isinstance(event, ExecutionSuspended | ExecutionResumed):
            self._suspended = isinstance(event, ExecutionSuspended)
        return not self.ended

    def _on_terminated(self, event: AnyEvent) -> bool:
        if not isinstance(event, ExecutionTerminated) or self.ended:
            return False
        self.outcome = Terminated(event.reason)
        self._driver.discard()
        return True


_HANDLERS: dict[type, Callable[[Execution, Any], bool]] = {
    ExecutionStarted: Execution._on_started,
    TaskCompleted: Execution._on_step,
    TaskFailed: Execution._on_step,
    TimerFired: Execution._on_step,
    SubOrchestrationInstanceCompleted: Execution._on_step,
    SubOrchestrationInstanceFailed: Execution._on_step,
    GroupCompleted: Execution._on_group,
    EventRaised: Execution._on_raised,
    CancelRequested: Execution._on_cancel,
    ExecutionSuspended: Execution._on_note,
    ExecutionResumed: Execution._on_note,
    ExecutionRewound: Execution._on_note,
    ExecutionTerminated: Execution._on_terminated,
}
