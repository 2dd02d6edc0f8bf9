"""The Celery task class that runs an activity.

The message holds one JSON string, the call; `run` decodes it, runs the function and returns the encoded
result, which the backend stores as it is. Whatever the author's code raises becomes an explicit outcome,
also what has a meaning to Celery (Ignore, Reject, Retry) or would end the process (SystemExit). Late
acknowledgement is set on the class, so that no configuration can take it away.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from traceback import clear_frames
from types import TracebackType
from typing import Any, Final

from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo
from celery import Task
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import (
    Ignore,
    Reject,
    TaskPredicate,
    TimeLimitExceeded,
    WorkerLostError,
    WorkerShutdown,
    WorkerTerminate,
)
from celery.states import REJECTED

from celeriac.activities import Activity, ActivityContext
from celeriac.activities.runner import run_activity
from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import CeleriacError, PayloadTooLargeError

from ..messages import Step, TaskId
from ..sealing import Seal
from ..settings import Settings
from ..store import flights, payloads, steps
from .heartbeats import Heartbeat
from .imposed import REQUEST
from .outcomes import OutcomeWriter, caught_from, step_from
from .runtime import Runtime, runtime_of

__all__ = ["CAUGHT", "STEP", "ActivityTask"]

logger = logging.getLogger("celeriac.activity")

CAUGHT: Final = "celeriac_caught"  # attribute of Celery's request: what `run` caught, for the backend
STEP: Final = "celeriac_read"  # attribute of Celery's request: the step, so that it is read once
CELERY_FIRST: Final = 3000  # milliseconds that the sweep's deadline lies behind Celery's soft limit
CHECK_EVERY: Final = 1.0  # seconds between two looks of is_cancelled at the store
MOST_LINKS: Final = 20  # exceptions that a MemoryError came from, one from the other
_NO_MEMORY: Final = b"celeriac: no memory is left to report the failure of an activity; the worker ends\n"
_OWN_MODULES: Final = {
    "celeriac.celery_app.activity_worker.task",
    "celeriac.activities.runner",
    "celeriac.activities.model",
}
# Raised in an activity, these would make Celery drop, requeue or mis-report the task, or end the worker.
_MISREAD: Final = (TaskPredicate, TimeLimitExceeded, WorkerLostError, MemoryError)


class ActivityError(CeleriacError):
    """Stands in Celery's eyes for an exception that Celery would take for something else."""


class ActivityTask(Task):
    """One activity as a Celery task; made by `ActivityTask.of`."""

    acks_late = True
    acks_on_failure = True
    acks_on_timeout = True
    reject_on_worker_lost = False
    retry_on_worker_lost = False
    ignore_result = True  # outcomes go to the engine, never to celery-task-meta keys
    store_errors_even_if_ignored = False
    track_started = False
    typing = False
    trail = False
    send_events = False
    rate_limit = None
    throws = (Exception,)  # Celery only notes a failure; how bad it is, the outcome writer says
    resultrepr_maxsize = 0  # results may be secret or large: Celery's logs and events never show them
    Request = REQUEST
    activity: Activity[..., Any]
    settings: Settings
    _tracer: Callable[..., Any] | None = None

    @classmethod
    def of(cls, activity: Activity[..., Any], settings: Settings) -> ActivityTask:
        """The task of an activity; its name is the activity's."""
        module = getattr(activity.function, "__module__", __name__)
        fields = {"name": activity.name, "activity": activity, "settings": settings, "__module__": module}
        return type(activity.name, (cls,), {**fields, "__doc__": activity.__doc__})()

    @property
    def __trace__(self) -> Callable[..., Any] | None:
        """Celery's tracer for this task, made to hand on a Reject that the backend raises."""
        return self._tracer

    @__trace__.setter
    def __trace__(self, tracer: Callable[..., Any] | None) -> None:
        self._tracer = tracer and _guarded(tracer, self.app)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run one attempt and return its encoded result; for a call that is not the engine's, its result."""
        request = self.request  # each look at it is a search on the stack of what runs here
        step = step_from(request.id or "", request)
        if step is None:
            return self._run_here(args, kwargs)
        setattr(request, STEP, step)
        runtime = runtime_of(self.app)
        if self.settings.transport == "stock" and not _begins(runtime, step.task, request):
            logger.info(
                "%s (%s) not run: its step has ended, runs or is at another attempt",
                self.name,
                step.task,
            )
            raise Ignore
        call = _call_text(runtime, step)
        _arm(runtime, step)
        heartbeat = Heartbeat(runtime, step)
        try:
            result = run_activity(self.activity, call, _context(runtime, step, heartbeat))
            return _within(result, runtime.settings.max_payload, self.activity.name)
        except (WorkerShutdown, WorkerTerminate):
            raise  # the worker ends here (solo pool): the message goes back
        except BaseException as error:
            if isinstance(error, SystemExit) and terminate_handler_fired():
                raise  # a hard limit or a shutdown: the main process knows why, and reports it
            if isinstance(error, MemoryError):
                _let_go(error)
            heartbeat.flush()
            _trim(error)
            setattr(request, CAUGHT, caught_from(error, step))
            _disguise(error, runtime.seal)
            raise

    def _run_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A plain call in this process; a message that is of no step is refused."""
        if not (self.request.called_directly or self.request.is_eager):
            logger.error(
                "%s (%s) not run: its message is not of a step of an orchestration, so it was forged or "
                "sent by Celery's own means; wrap the function in a plain Celery task for that",
                self.name,
                self.request.id,
            )
            raise Ignore
        context = ActivityContext(instance_id="", execution_id="", seq=0, name=self.activity.name)
        return codec.decode(run_activity(self.activity, codec.encode_call(args, kwargs), context))


def _disguise(error: BaseException, seal: Seal) -> None:
    """Raise something else in place of what Celery would take for something else, or must not log."""
    if seal.hides or isinstance(error, _MISREAD) or not isinstance(error, Exception):
        said = f"the activity raised {type(error).__name__}: {seal.masked(str(error))}"
        raise ActivityError(said) from (None if seal.hides else error)


def _begins(runtime: Runtime, task: TaskId, request: Any) -> bool:
    """Whether to run this copy: our transport's take has seen to it, kombu's own does not."""
    again = bool((request.delivery_info or {}).get("redelivered"))
    call = flights.begin(
        runtime.store.keys, task.execution, task.seq, task.attempt, secrets.token_hex(4), again=again
    )
    return OutcomeWriter(runtime).settle(call)


def _call_text(runtime: Runtime, step: Step) -> str:
    """The call, fetched if it is a reference; raises Reject when the worker stops before Redis answers."""
    if not step.call.startswith("@"):
        return runtime.seal.clear(step.call)
    call = payloads.fetch(runtime.store.keys, step.task.execution, [step.call[1:]])
    (blob,) = OutcomeWriter(runtime).settle(call)
    return runtime.seal.unpack(blob)


def _within(result: str, limit: int, name: str) -> str:
    if len(result) > limit // 4 and (size := len(result.encode())) > limit:
        raise PayloadTooLargeError(
            f"the result of activity {name!r} is {size:,} bytes as JSON; the limit is {limit:,}. "
            "Keep the data elsewhere and return a reference to it, or raise CELERIAC_MAX_PAYLOAD."
        )
    return result


def _guarded(tracer: Callable[..., Any], app: Any) -> Callable[..., Any]:
    """Celery catches a Reject of the task, but lets one of the backend escape, which the threads and solo
    pools do not survive: give it back the same way.

    It also lets a MemoryError escape, here one of our own report. A prefork child ends by it, and its main
    process reports that; a thread would forget it, and the step would count as running for as long as the
    process lives. So the process ends at once: who watches it gives back what it held, and counts the death.
    """

    def traced(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        try:
            return tracer(uuid, args, kwargs, request)
        except Reject as error:
            return trace_ok_t(ExceptionInfo(internal=True), TraceInfo(REJECTED, error), 0.0, None)
        except MemoryError:
            if not runtime_of(app).in_child:
                os.write(2, _NO_MEMORY)
                os._exit(1)
            raise

    return traced


def _let_go(error: MemoryError) -> None:
    """The traceback holds the variables of the code that used the memory up: drop them, to have some for the
    report."""
    link: BaseException | None = error
    for _ in range(MOST_LINKS):
        if link is None:
            break
        clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def _trim(error: BaseException) -> None:
    """Drop the engine's own frames from the top of the traceback, so that it starts in the author's code."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
        trace = trace.tb_next
    if trace is not None:
        error.__traceback__ = trace


def _arm(runtime: Runtime, step: Step) -> None:
    """Give the attempt its deadlines, which the sweep enforces on every pool."""
    options = step.header.options
    if not (options.timeout or options.heartbeat or options.schedule_to_start):
        return
    # In a prefork pool Celery's own limits come first: they stop the code and know where it was.
    grace = CELERY_FIRST if runtime.in_child else 0
    call = steps.arm(
        runtime.store.keys, step.task.instance, step.task.execution, step.task.seq, step.task.attempt,
        close_in=options.timeout + grace if options.timeout else 0, beat_in=options.heartbeat,
    )  # fmt: skip
    if not OutcomeWriter(runtime).settle(call):
        raise Ignore


def _context(runtime: Runtime, step: Step, heartbeat: Heartbeat) -> ActivityContext:
    task, options = step.task, step.header.options
    timeout = options.timeout
    return ActivityContext(
        instance_id=task.instance,
        execution_id=task.execution,
        seq=task.seq,
        attempt=task.attempt,
        name=step.name,
        deadline=datetime.now(UTC) + timedelta(milliseconds=timeout) if timeout else None,
        heartbeat=heartbeat,
        last_heartbeat=heartbeat.before,
        tags=options.tags,
        is_cancelled=_Cancelled(runtime, task),
    )


class _Cancelled:
    """`ActivityContext.is_cancelled`: looks at the store once a second at most."""

    def __init__(self, runtime: Runtime, task: TaskId) -> None:
        self._runtime, self._task = runtime, task
        self._looked, self._answer = 0.0, False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._answer and now - self._looked >= CHECK_EVERY:
            self._looked = now
            task, store = self._task, self._runtime.store
            try:
                self._answer = not store.run(
                    flights.is_current(store.keys, task.execution, task.seq, task.attempt)
                )
            except CeleriacError as error:
                logger.warning("cannot see whether %s is still wanted: %s", task, error)
        return self._answer
