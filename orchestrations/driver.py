"""Drives the author's coroutine or generator with `.send()` until it blocks on an open task or ends.

It knows nothing of histories. What the author's code yields is a task, or a mistake that fails the
orchestration. Once the code has called `continue_as_new` the run is over: whatever it catches or
awaits afterwards changes nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Coroutine, Generator
from types import FrameType
from typing import Any

from . import codec
from .context import OrchestrationContext
from .errors import (
    CodecError,
    ContinueAsNew,
    FailureDetails,
    OrchestrationCancelledError,
    failure_from,
)
from .grouping import group_awaited
from .history import ExecutionStarted
from .inputs import has_default, read_input
from .registry import OrchestratorDefinition
from .run import Run
from .tasks import OPEN, Task
from .turn import Cancelled, Completed, ContinuedAsNewOutcome, Failed, Outcome

__all__ = ["Driver", "cancellation"]

_HERE = os.path.dirname(__file__)
# What an orchestrator may raise as its own failure; other BaseExceptions are meant for the process.
_AUTHORS_ERRORS = (Exception, SystemExit, GeneratorExit, asyncio.CancelledError)
# How often code that is being discarded may catch GeneratorExit and await again.
_PATIENCE = 1000
_NO_ASYNCIO = "asyncio cannot be used in orchestrators: use ctx.create_timer to pause, an activity for IO"


def cancellation(reason: str) -> OrchestrationCancelledError:
    """What is raised at the await when a client cancels the instance."""
    return OrchestrationCancelledError(reason or "the orchestration was cancelled")


class Driver:
    """The author's code of one execution and where it stands."""

    __slots__ = ("_code", "_definition", "_native", "_pending", "_run", "awaited", "cancelled", "started")

    def __init__(self, definition: OrchestratorDefinition, run: Run) -> None:
        self._definition = definition
        self._run = run
        self._code: Coroutine[Any, Any, Any] | Generator[Any, Any, Any] | None = None
        self._native = False  # a coroutine fetches results itself; a generator is sent them
        self._pending: BaseException | None = None
        self.awaited: Task[Any] | None = None  # the open task it blocks on
        self.started: ExecutionStarted | None = None
        self.cancelled: str | None = None  # the reason, once cancellation was requested

    def start(self, event: ExecutionStarted) -> FailureDetails | None:
        """Make the coroutine or generator, not yet run; the failure if the input does not fit."""
        definition = self._definition
        self.started = event
        if self.cancelled is not None:
            self._pending = cancellation(self.cancelled)
        try:
            value = read_input(definition, self._run.text(event.input))
        except CodecError as error:
            wrong = CodecError(f"the input of orchestrator {definition.name!r} cannot be read: {error}")
            return failure_from(wrong)
        version = event.version or definition.version
        context = OrchestrationContext(self._run, event, version, value)
        function = definition.function
        with_input = definition.takes_input and not (event.input is None and has_default(function))
        try:
            code = function(context, value) if with_input else function(context)
        except Exception as error:  # noqa: BLE001 - a wrapper around the author's function may raise anything
            return _describe_failure(error)
        self._native = inspect.iscoroutine(code)
        if not self._native and not inspect.isgenerator(code):
            return failure_from(TypeError(f"orchestrator {definition.name!r} returned {code!r:.200} at once"))
        self._code = code
        return None

    def ready(self) -> bool:
        """Has what the code blocks on finished?"""
        return self.awaited is not None and self.awaited._state != OPEN

    def resume(self, error: BaseException | None) -> Outcome | None:
        """Run the code until it blocks again (None) or ends. With `error`, raise that at the await."""
        code, run = self._code, self._run
        if code is None:
            return None
        run.in_author = True
        try:
            outcome = self._until_blocked(code, error)
        except StopIteration as stop:
            outcome = self._returned(stop.value)
        except ContinueAsNew:
            outcome = self._returned(None)
        except _AUTHORS_ERRORS as raised:
            outcome = self._raised(raised)
        finally:
            run.in_author = False
        if outcome is not None:
            self._code = self.awaited = None
        return outcome

    def _until_blocked(self, code: Any, error: BaseException | None) -> Outcome | None:
        run, task = self._run, self.awaited
        self.awaited = None
        while True:
            yielded = self._push(code, task, error)
            error = None
            if not isinstance(yielded, Task) or yielded._run not in (run, None) or run.ending():
                return self._stop(yielded)
            task = yielded
            if task._state == OPEN and task._hears and run.mailbox.count:
                run.mailbox.offer(task)
            if task._state == OPEN:
                if self._pending is None:
                    self.awaited = task
                    group_awaited(run, task)
                    return None
                error, self._pending = self._pending, None

    def _push(self, code: Any, task: Task[Any] | None, error: BaseException | None) -> Any:
        """Let the code go on: a coroutine fetches the task's outcome itself, a generator is handed it."""
        value = None
        if error is None and task is not None and not self._native:
            try:
                value = task._outcome()
            except Exception as failure:  # noqa: BLE001 - it is raised at the author's yield
                error = failure
        return code.send(value) if error is None else code.throw(error)

    def where(self) -> str:
        """file:line of the innermost author's code that awaits; of the definition when none does."""
        code: Any = self._code
        found = ""
        while code is not None:
            frame: FrameType | None = getattr(code, "cr_frame", None) or getattr(code, "gi_frame", None)
            if frame is not None and os.path.dirname(frame.f_code.co_filename) != _HERE:
                found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            code = getattr(code, "cr_await", None) or getattr(code, "gi_yieldfrom", None)
        return found or self._definition.where

    def discard(self) -> None:
        """Close the code. It may go on awaiting in `finally` blocks; after a while it is left alone."""
        self._run.over = True
        code, self._code, self.awaited = self._code, None, None
        if code is not None:
            _close(code)

    def _stop(self, yielded: Any) -> Outcome:
        """The code awaits something although it may not, or cannot: the run ends here."""
        run, code = self._run, self._code
        if run.broken is not None:
            self.discard()
            raise run.broken
        if run.next_run is not None:
            self.discard()
            return ContinuedAsNewOutcome(*run.next_run)
        wrong = TypeError(self._complaint(yielded))
        if code is not None:
            run.over = True
            try:
                code.throw(wrong)  # so that the trace shows the author's line
            except StopIteration:
                wrong.__traceback__ = None
            except _AUTHORS_ERRORS as raised:
                if raised is not wrong:
                    wrong.__traceback__ = None
            self.discard()
            run.over = False
        return Failed(_describe_failure(wrong))

    def _complaint(self, yielded: Any) -> str:
        name = self._definition.name
        if isinstance(yielded, Task):
            return f"orchestrator {name!r} awaits {yielded!r}, which belongs to another orchestration"
        kind = f"{type(yielded).__module__}.{type(yielded).__qualname__}".removeprefix("builtins.")
        hint = "await tasks of ctx, such as ctx.call_activity(...)"
        if inspect.iscoroutine(yielded):
            yielded.close()
            hint = "write `yield from` with a generator helper, or make the orchestrator `async def`"
        elif yielded is None or asyncio.isfuture(yielded):
            hint = _NO_ASYNCIO
        verb = "awaits" if self._native else "yields"
        return f"orchestrator {name!r} {verb} something that is no task: {kind} {repr(yielded)[:200]}; {hint}"

    def _returned(self, value: Any) -> Outcome:
        run = self._run
        if run.broken is not None:
            raise run.broken
        if run.next_run is not None:
            return ContinuedAsNewOutcome(*run.next_run)
        try:
            return Completed(None if value is None else codec.encode(value))
        except CodecError as error:
            if inspect.iscoroutine(value):
                value.close()
            wrong = CodecError(f"the output of orchestrator {self._definition.name!r} is not JSON: {error}")
            return Failed(failure_from(wrong))

    def _raised(self, error: BaseException) -> Outcome:
        run = self._run
        if run.broken is not None:
            raise run.broken
        if isinstance(error, MemoryError):
            raise error
        if isinstance(error, RuntimeError) and str(error) == "no running event loop":
            wrong = TypeError(f"orchestrator {self._definition.name!r} awaits asyncio; {_NO_ASYNCIO}")
            wrong.__cause__ = error
            return Failed(_describe_failure(wrong.with_traceback(error.__traceback__)))
        if isinstance(error, OrchestrationCancelledError):
            return Cancelled(self.cancelled if self.cancelled is not None else str(error))
        return Failed(_describe_failure(error))


def _describe_failure(error: BaseException) -> FailureDetails:
    """The failure with a trace that begins in the author's code."""
    trace = error.__traceback__
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == _HERE:
        trace = trace.tb_next
    return failure_from(error.with_traceback(trace) if trace is not None else error)


def _close(code: Coroutine[Any, Any, Any] | Generator[Any, Any, Any]) -> None:
    try:
        for _ in range(_PATIENCE):
            code.throw(GeneratorExit())
    except BaseException as error:  # whatever discarded code raises concerns nobody
        if isinstance(error, KeyboardInterrupt):
            raise
        return
    _keep_for_ever(code)


def _keep_for_ever(code: Any) -> None:
    """Code that never lets GeneratorExit pass cannot be collected without a warning, not even at exit."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(code))
