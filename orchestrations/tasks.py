"""What an author awaits (`async def`) or yields (generator): tasks and groups of tasks.

A task finishes once, in the order of the history, and stays finished; awaiting it again is free.
Groups nest and a task may stand in several. A group that has finished lets go of its parts, so a
task that outlives a thousand `when_any` keeps no trace of them, and finishing a task costs as much
as it has open groups. Nothing here reads a clock or depends on memory addresses: a task's hash is
the number of its creation, so that even sets of tasks have a repeatable order.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from .errors import FailureDetails, TaskFailedError, failure_from

if TYPE_CHECKING:
    from .run import Run
    from .steps import EventTask

__all__ = ["Task", "when_all", "when_any"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

OPEN, SUCCEEDED, FAILED = 0, 1, 2


class Task(Generic[T_co]):
    """A durable operation under way. Await it (or yield it) for its result."""

    __slots__ = ("_groups", "_number", "_order", "_run", "_state")
    _hears: bool = False  # does it, or a part of it, wait for an external event?
    _run: Any  # the Run; None only for a group of nothing
    _number: int  # of its creation
    _order: int  # of its end
    _groups: dict[Group[Any], None] | None  # the open groups it stands in

    @property
    def is_completed(self) -> bool:
        """True once the task has finished, well or not."""
        return self._state != OPEN

    @property
    def is_failed(self) -> bool:
        """True if the task has finished with an error; a cancelled task has."""
        return self._state == FAILED

    @property
    def result(self) -> T_co:
        """The result; raises what awaiting would raise, and RuntimeError while the task is open."""
        return self._outcome()

    @property
    def exception(self) -> Exception | None:
        """What awaiting a failed task raises; None for any other task."""
        return self._error() if self._state == FAILED else None

    def cancel(self) -> bool:
        """Give the task up: awaiting it raises TaskCancelledError. False if it had already finished.

        An activity is revoked, a timer removed, a sub-orchestration ended as its `parent_close` says;
        cancelling a group cancels its open parts.
        """
        raise NotImplementedError

    def __await__(self) -> Generator[Task[Any], Any, T_co]:
        if self._state == OPEN:
            yield self
        return self._outcome()

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        state = ("open", "completed", "failed")[self._state]
        return f"<{self._title()}, {state}>"

    def _outcome(self) -> T_co:
        if self._state == SUCCEEDED:
            return self._value()
        if self._state == FAILED:
            raise self._error()
        raise RuntimeError(f"{self!r} has no result yet: await it first")

    def _finish(self, state: int) -> None:
        """End the task and every group that this completes."""
        self._state = state
        run = self._run
        if run is not None:
            run.finished += 1
            self._order = run.finished
        if self._groups:
            _tell_groups(self)

    def _waiter(self) -> EventTask[Any] | None:
        """This, if it is itself a waiter for an external event."""
        return None

    def _parts(self) -> Sequence[Task[Any]]:
        return ()

    def _value(self) -> Any:
        raise NotImplementedError

    def _error(self) -> Exception:
        raise NotImplementedError

    def _title(self) -> str:
        raise NotImplementedError


def _tell_groups(task: Task[Any]) -> None:
    """Work through the groups above in order; a loop, because groups may nest deeper than the stack."""
    finished: deque[Task[Any]] = deque([task])
    while finished:
        part = finished.popleft()
        groups, part._groups = part._groups, None
        for group in groups or ():
            if group._state == OPEN:
                state = group._after(part)
                if state != OPEN:
                    group._close(state)
                    finished.append(group)


class Group(Task[T_co]):
    """A task that finishes by its parts."""

    __slots__ = ("_hears", "_members", "_open_parts")

    def __init__(self, members: Sequence[Task[Any]]) -> None:
        self._members = members
        self._groups = None
        self._state = OPEN
        self._order = 0
        self._hears = any(part._hears for part in members)
        run = self._run = next((part._run for part in members if part._run is not None), None)
        self._number = run.number() if run is not None else 0
        missing = 0
        for part in members:
            if part._state == OPEN:
                if part._groups is None:
                    part._groups = {}
                elif self in part._groups:
                    continue
                part._groups[self] = None
                missing += 1
        self._open_parts = missing
        state = self._at_first()
        if state != OPEN:
            self._close(state)

    def cancel(self) -> bool:
        if self._state != OPEN:
            return False
        for part in self._members:
            part.cancel()
        return True

    def _close(self, state: int) -> None:
        """Finish, without telling the groups above, and let go of the parts still open."""
        self._state = state
        if self._run is not None:
            self._run.finished += 1
            self._order = self._run.finished
        for part in self._members:
            if part._groups:
                part._groups.pop(self, None)

    def _parts(self) -> Sequence[Task[Any]]:
        return self._members

    def _at_first(self) -> int:
        """The state right after creation."""
        raise NotImplementedError

    def _after(self, part: Task[Any]) -> int:
        """The state after this part has finished."""
        raise NotImplementedError


class AllTask(Group[list[Any]]):
    """Finishes when every part has, or with `fail_fast` at the first failure."""

    __slots__ = ("_culprit", "fail_fast", "return_exceptions")

    def __init__(self, members: Sequence[Task[Any]], return_exceptions: bool, fail_fast: bool) -> None:
        self.return_exceptions, self.fail_fast = return_exceptions, fail_fast
        self._culprit: Task[Any] | None = None
        super().__init__(members)

    def _at_first(self) -> int:
        if self.fail_fast:
            failed = [part for part in self._members if part._state == FAILED]
            if failed:
                self._culprit = min(failed, key=lambda part: part._order)
                return FAILED
        return OPEN if self._open_parts else self._final()

    def _after(self, part: Task[Any]) -> int:
        self._open_parts -= 1
        if self.fail_fast and part._state == FAILED:
            self._culprit = part
            return FAILED
        return OPEN if self._open_parts else self._final()

    def _final(self) -> int:
        failed = not self.return_exceptions and any(part._state == FAILED for part in self._members)
        return FAILED if failed else SUCCEEDED

    def _value(self) -> list[Any]:
        if not self.return_exceptions:
            return [part._outcome() for part in self._members]
        return [_result_or_error(part) for part in self._members]

    def _error(self) -> Exception:
        failed = [self._culprit] if self._culprit else [p for p in self._members if p._state == FAILED]
        error = failed[0]._error()
        if len(failed) == 1 or not isinstance(error, TaskFailedError):
            return error
        failures = tuple(_details(part._error()) for part in dict.fromkeys(failed))
        return TaskFailedError(error.details, name=error.name, seq=error.seq, failures=failures)

    def _title(self) -> str:
        return f"when_all of {len(self._members)} tasks"


def _result_or_error(task: Task[Any]) -> Any:
    try:
        return task._outcome()
    except Exception as error:  # noqa: BLE001 - handing exceptions over as values is what was asked for
        return error


def _details(error: Exception) -> FailureDetails:
    return error.details if isinstance(error, TaskFailedError) else failure_from(error)


class AnyTask(Group[Task[Any]]):
    """Finishes with the part that finished first by the history."""

    __slots__ = ("_winner",)

    def _at_first(self) -> int:
        done = [part for part in self._members if part._state != OPEN]
        self._winner: Task[Any] | None = min(done, key=lambda part: part._order) if done else None
        return SUCCEEDED if done else OPEN

    def _after(self, part: Task[Any]) -> int:
        self._winner = part
        return SUCCEEDED

    def _value(self) -> Any:
        return self._winner

    def _title(self) -> str:
        return f"when_any of {len(self._members)} tasks"


def checked_tasks(what: str, tasks: Iterable[Task[T]]) -> list[Task[T]]:
    """The tasks as a list; TypeError for anything that is not a task, or tasks of two orchestrations."""
    if isinstance(tasks, Task) or not isinstance(tasks, Iterable):
        raise TypeError(f"{what} takes a list of tasks, not {tasks!r}")
    found: list[Any] = list(tasks)
    if isinstance(tasks, set | frozenset):
        found.sort(key=lambda task: getattr(task, "_number", 0))
    run: Run | None = None
    for index, task in enumerate(found):
        if not isinstance(task, Task):
            shown = repr(task)[:200]
            hint = ""
            if inspect.iscoroutine(task):
                task.close()
                hint = "; await a helper coroutine itself, or make it a sub-orchestration"
            raise TypeError(f"{what}: item {index} is no task but {type(task).__name__}: {shown}{hint}")
        if run is not None and task._run is not None and task._run is not run:
            raise TypeError(f"{what}: item {index}, {task!r}, belongs to another orchestration")
        run = task._run or run
    return found


@overload
def when_all(
    tasks: Iterable[Task[T]], *, return_exceptions: Literal[False] = False, fail_fast: bool = False
) -> Task[list[T]]: ...
@overload
def when_all(
    tasks: Iterable[Task[T]], *, return_exceptions: bool, fail_fast: bool = False
) -> Task[list[T | Exception]]: ...
def when_all(
    tasks: Iterable[Task[Any]], *, return_exceptions: bool = False, fail_fast: bool = False
) -> Task[list[Any]]:
    """All results, in input order, once every task has finished.

    If tasks failed, the first failure in input order is raised, with all of them in `.failures`; with
    `return_exceptions` they stand in the list instead; with `fail_fast` the first to fail is raised at
    once. Awaiting the `when_all` of activities scheduled right before runs them as one Celery group.
    """
    if return_exceptions and fail_fast:
        raise ValueError("when_all: return_exceptions and fail_fast exclude each other; give one of them")
    return AllTask(checked_tasks("when_all", tasks), return_exceptions, fail_fast)


def when_any(tasks: Iterable[Task[T]]) -> Task[Task[T]]:
    """The first task to finish, by the history; compare it with `is`, or read its `.result`."""
    members = checked_tasks("when_any", tasks)
    if not members:
        raise ValueError("when_any of no tasks would wait for ever; give it at least one")
    return AnyTask(members)
