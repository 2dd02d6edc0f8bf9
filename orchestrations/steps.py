"""The tasks that stand for one operation each: activity, map, timer, external event, child.

A step is open under its number until its event comes; an event that finds no open step of its kind is
not for this execution any more and is dropped by the driver. Results are decoded when they are read,
so a result nobody looks at costs nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

import msgspec

from . import codec
from .commands import attempt_id
from .errors import Attempt, FailureDetails, TaskCancelledError, TaskFailedError, failure_from
from .history import (
    AnyEvent,
    EventRaised,
    GroupScheduled,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCancelled,
    TimerCreated,
    TimerFired,
    failure_of,
)
from .retry import RetryContext, RetryPolicy, asked_delay, decide
from .run import Run
from .tasks import FAILED, OPEN, SUCCEEDED, Group, Task

__all__ = ["ActivityTask", "ChildTask", "EventOrTimeout", "EventTask", "MapTask", "Step", "TimerTask"]

T = TypeVar("T")

_READ: Any = object()  # stands in for the type of a result that was decoded already
NO_DEFAULT: Any = object()
MOST_ATTEMPTS = 10  # failed attempts remembered
ATTEMPT_MESSAGE = 512  # characters of its message kept of each


class Step(Task[T]):
    """A task that one event finishes."""

    __slots__ = ("_failure", "_slot", "_step", "_text", "_type", "name", "seq")
    _takes: frozenset[type] = frozenset()  # kinds of event
    _run: Run
    _failure: FailureDetails | None

    def __init__(self, run: Run, seq: int, name: str, type_: Any = Any) -> None:
        self._run = run
        self.seq = seq
        self.name = name
        self._type = type_
        self._state = OPEN
        self._order = 0
        self._groups = None
        self._failure = None
        run.numbered += 1
        self._number = run.numbered
        self._step = run.step

    def _take(self, event: Any) -> None:
        """Apply the event that was reported under this step's number."""
        raise NotImplementedError

    def cancel(self) -> bool:
        if self._state != OPEN:
            return False
        self._give_up()
        self._finish(FAILED)
        return True

    def _give_up(self) -> None:
        """Close the step: without a trace if it was opened just now."""
        run = self._run
        run.open.pop(self.seq, None)
        if not run.withdraw(self._step, self._slot):
            run.issue(TaskCancelled(at=run.at, seq=self.seq))
            run.closed.append(self.seq)

    def _succeed(self, text: str | None) -> None:
        self._text = text
        self._finish(SUCCEEDED)

    def _fail(self, failure: FailureDetails) -> None:
        self._failure = failure
        self._finish(FAILED)

    def _value(self) -> Any:
        if self._type is not _READ:
            self._text: Any = codec.decode(self._run.text(self._text), self._type)
            self._type = _READ
        return self._text

    def _error(self) -> Exception:
        if self._failure is None:
            return TaskCancelledError(f"{self._title()} was cancelled")
        return TaskFailedError(self._failure, name=self.name, seq=self.seq)

    def _title(self) -> str:
        return f"{self.name} #{self.seq}"


class ActivityTask(Step[T]):
    """A call of an activity: by itself, or as a part of a group."""

    __slots__ = ()
    _takes = frozenset({TaskCompleted, TaskFailed})

    def __init__(self, run: Run, command: TaskScheduled, type_: Any) -> None:
        super().__init__(run, command.seq, command.name, type_)
        self._slot = run.issue(command)
        run.open[command.seq] = self

    def _take(self, event: TaskCompleted | TaskFailed) -> None:
        del self._run.open[self.seq]
        if isinstance(event, TaskCompleted):
            self._succeed(event.result)
        else:
            self._fail(failure_of(event.failure, event.attempts))


class Parts:
    """The activities of one `when_all` that run as a group; finishes those that are still open."""

    __slots__ = ("tasks",)

    def __init__(self, tasks: list[ActivityTask[Any]]) -> None:
        self.tasks = tasks  # by number

    def _take_outcomes(self, seq: int, failed: int) -> bool:
        run = self.tasks[0]._run
        if all(task._state != OPEN for task in self.tasks):
            return False
        for task, outcome in zip(self.tasks, run.outcomes(seq, len(self.tasks)), strict=True):
            if task._state == OPEN:
                del run.open[task.seq]
                if outcome.failure is None:
                    task._succeed(outcome.result)
                else:
                    task._fail(failure_of(outcome.failure, outcome.attempts))
        return True


class MapTask(Step[list[Any]]):
    """`ctx.map`: any number of calls as one task; only their number is kept here."""

    __slots__ = ("_return_exceptions", "_size")

    def __init__(self, run: Run, command: GroupScheduled, type_: Any, return_exceptions: bool) -> None:
        super().__init__(run, command.seq, command.name, type_)
        self._size = command.size
        self._return_exceptions = return_exceptions
        self._slot = run.issue(command)
        run.groups[command.seq] = self

    def _take_outcomes(self, seq: int, failed: int) -> bool:
        self._finish(FAILED if failed and not self._return_exceptions else SUCCEEDED)
        return True

    def _give_up(self) -> None:
        run = self._run
        del run.groups[self.seq]
        if not run.withdraw(self._step, self._slot):
            run.issue(TaskCancelled(at=run.at, seq=self.seq))
            run.dropped.append(self.seq)
        self._size = 0

    def _value(self) -> list[Any]:
        if self._type is not _READ:
            run, type_ = self._run, self._type
            self._text = [
                codec.decode(run.text(outcome.result), type_)
                if outcome.failure is None
                else TaskFailedError(
                    failure_of(outcome.failure, outcome.attempts), name=self.name, seq=self.seq + index
                )
                for index, outcome in enumerate(run.outcomes(self.seq, self._size))
            ]
            self._type = _READ
        return self._text

    def _error(self) -> Exception:
        if not self._size:
            return super()._error()
        outcomes = self._run.outcomes(self.seq, self._size)
        failed = [
            (index, failure_of(outcome.failure, outcome.attempts))
            for index, outcome in enumerate(outcomes)
            if outcome.failure is not None
        ]
        index, first = failed[0]
        failures = tuple(failure for _, failure in failed)
        return TaskFailedError(first, name=self.name, seq=self.seq + index, failures=failures)

    def _title(self) -> str:
        return f"map of {self.name} #{self.seq}"


class TimerTask(Step[None]):
    """A durable timer."""

    __slots__ = ()
    _takes = frozenset({TimerFired})

    def __init__(self, run: Run, due: int) -> None:
        super().__init__(run, run.take_seq(), "timer")
        self._slot = run.issue(TimerCreated(at=run.at, seq=self.seq, due=due))
        run.open[self.seq] = self

    def _take(self, event: TimerFired) -> None:
        del self._run.open[self.seq]
        self._succeed(None)

    def _give_up(self) -> None:
        run = self._run
        run.open.pop(self.seq, None)
        if not run.withdraw(self._step, self._slot):
            run.issue(TimerCancelled(at=run.at, seq=self.seq))
            run.closed.append(self.seq)


class EventTask(Step[T]):
    """A waiter for an external event; asks for nothing, so it has no number of its own."""

    __slots__ = ("_key",)
    _hears = True

    def __init__(self, run: Run, name: str, type_: Any) -> None:
        super().__init__(run, -1, name, type_)
        self._key = name.casefold()

    def _take(self, event: EventRaised) -> None:
        self._succeed(event.input)

    def _waiter(self) -> EventTask[Any]:
        return self

    def _give_up(self) -> None:
        """Nobody was told of it."""

    def _title(self) -> str:
        return f"event {self.name!r}"


class EventOrTimeout(Group[Any]):
    """A waiter with a time-out: whichever comes first, and the timer goes when the event wins."""

    __slots__ = ("_default", "_event", "_timer")

    def __init__(self, event: EventTask[Any], timer: TimerTask, default: Any) -> None:
        self._event, self._timer, self._default = event, timer, default
        super().__init__((event, timer))

    def _at_first(self) -> int:
        return OPEN

    def _after(self, part: Task[Any]) -> int:
        if part is self._event:
            self._timer._groups = None  # its end must not be taken for a time-out
            self._timer.cancel()
            return self._event._state
        return FAILED if self._default is NO_DEFAULT else SUCCEEDED

    def _value(self) -> Any:
        return self._event._outcome() if self._event._state != OPEN else self._default

    def _error(self) -> Exception:
        if self._event._state != OPEN:
            return self._event._error()
        return TimeoutError(f"no event {self._event.name!r} came in time")

    def _title(self) -> str:
        return f"{self._event._title()} with a time-out"


class ChildTask(Step[T]):
    """A sub-orchestration; with a policy, failed attempts are followed by a timer and a new child."""

    __slots__ = ("_attempt", "_command", "_failed", "_first_at", "_policy", "_timer")
    _takes = frozenset({SubOrchestrationInstanceCompleted, SubOrchestrationInstanceFailed})

    def __init__(
        self, run: Run, command: SubOrchestrationInstanceCreated, type_: Any, policy: RetryPolicy | None
    ) -> None:
        super().__init__(run, command.seq, command.name, type_)
        self._command, self._policy = command, policy
        self._attempt, self._first_at = 1, run.at
        self._failed: tuple[Attempt, ...] = ()
        self._timer: _RetryTimer | None = None
        self._slot = run.issue(command)
        run.open[command.seq] = self

    def _take(self, event: AnyEvent) -> None:
        del self._run.open[self.seq]
        if isinstance(event, SubOrchestrationInstanceCompleted):
            self._succeed(event.result)
        elif isinstance(event, SubOrchestrationInstanceFailed):
            self._after_failure(event.failure)

    def _after_failure(self, failure: FailureDetails) -> None:
        policy = self._policy
        if policy is None:
            self._fail(failure)
            return
        delay, final = None, failure
        try:
            delay = self._decide(policy, failure)
        except Exception as error:  # noqa: BLE001 - the author's handler may raise anything
            final = msgspec.structs.replace(failure_from(error), inner=failure)
        self._note(failure, delay or 0)
        if delay is None:
            self._fail(msgspec.structs.replace(final, attempts=self._failed))
        else:
            self._timer = _RetryTimer(self._run, self._run.at + delay, self)

    def _note(self, failure: FailureDetails, delay: int) -> None:
        """Remember the attempt that failed, as an activity's are: the last ones, each in short."""
        message = failure.message[:ATTEMPT_MESSAGE]
        attempt = Attempt(self._attempt, self._run.at, failure.error_type, message, delay)
        self._failed = (*self._failed, attempt)[-MOST_ATTEMPTS:]

    def _decide(self, policy: RetryPolicy, failure: FailureDetails) -> int | None:
        run = self._run
        asked = asked_delay(failure)
        handler, verdict = policy.load_handler() if asked is None else None, None
        if handler is not None:
            elapsed = timedelta(milliseconds=run.at - self._first_at)
            verdict = handler(RetryContext(self._attempt, failure, elapsed, run.instance))
        seed = f"{run.execution}:{self._command.seq}"
        return decide(policy, failure, self._attempt, self._first_at, run.at, seed, asked, verdict)

    def _again(self) -> None:
        run = self._run
        self._timer = None
        self._attempt += 1
        self.seq = run.take_seq()
        self._step = run.step
        instance = attempt_id(self._command.instance, self._attempt)
        self._slot = run.issue(
            msgspec.structs.replace(self._command, at=run.at, seq=self.seq, instance=instance)
        )
        run.open[self.seq] = self

    def _give_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        else:
            super()._give_up()


class _RetryTimer(TimerTask):
    """The pause between two attempts of a sub-orchestration."""

    __slots__ = ("_child",)

    def __init__(self, run: Run, due: int, child: ChildTask[Any]) -> None:
        self._child = child
        super().__init__(run, due)

    def _take(self, event: TimerFired) -> None:
        super()._take(event)
        self._child._again()
