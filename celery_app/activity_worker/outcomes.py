"""Writes the outcome of an attempt into the store, however long that takes.

An outcome is never replaced by a false one: while Redis does not answer (or refuses, being full or read-
only) the call is repeated with jittered back-off. Only when the worker is asked to stop it gives up, by
`Reject(requeue=True)`: the message stays and another worker runs the attempt again.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from celery.exceptions import Reject, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from kombu.exceptions import DecodeError
from msgspec.structs import replace

from celeriac.orchestrations.errors import (
    ActivityTimeoutError,
    ActivityWorkerLostError,
    FailureDetails,
    NonRetryableError,
    PayloadTooLargeError,
    RedisUnavailableError,
    RetryAfter,
    SealedPayloadError,
    failure_from,
)

from .. import forking, retrying
from ..complaints import Complaints
from ..messages import STEP_HEADER, STEP_META_HEADER, GroupRef, Step, TaskId, read_header
from ..sealing import Seal
from ..store import Call, GoneError, StoreError, command, steps
from .runtime import Runtime

__all__ = ["Caught", "OutcomeWriter", "caught_from", "step_from"]

logger = logging.getLogger("celeriac.activity")

T = TypeVar("T")
P = ParamSpec("P")

FIRST_PAUSE: Final = 0.05
MAX_LOGGED: Final = 500  # characters of an error's message
MAX_PAUSE: Final = 2.0
GRACE: Final = 5.0  # seconds that an outcome is still tried to be written after the worker was asked to stop


class Caught(NamedTuple):
    """What the task class keeps of an exception, before Celery makes a picklable copy of it."""

    failure: FailureDetails
    delay: timedelta | None = None


def caught_from(error: BaseException, step: Step) -> Caught:
    """What an attempt of the step raised, as data; Celery's own exceptions become ours."""
    delay = error.delay if isinstance(error, RetryAfter) else None
    if isinstance(error, SoftTimeLimitExceeded):
        where = failure_from(error).stack_trace
        timeout = ActivityTimeoutError(f"the activity {step.name} ran longer than {_limit(step)}")
        return Caught(_with_stack(failure_from(timeout), where))
    return Caught(failure_from(_ours(error, step)), delay)


def _ours(error: BaseException, step: Step) -> BaseException:
    if isinstance(error, TimeLimitExceeded):
        return ActivityTimeoutError(
            f"the activity {step.name} ran longer than {_limit(step)} and did not stop; "
            "its process was killed"
        )
    if isinstance(error, WorkerLostError):
        return ActivityWorkerLostError(
            f"the process that ran the activity {step.name} died: {error}. "
            "Was it out of memory, or did it call os._exit?"
        )
    if isinstance(error, DecodeError):
        return NonRetryableError(f"the message could not be read: {error}")
    return error


def _limit(step: Step) -> str:
    # Celery's soft limit does not say how long it was, and its hard one is later than what was declared.
    timeout = step.header.options.timeout
    return f"its timeout of {timeout / 1000:g} s" if timeout else "the time limit of Celery's configuration"


def _with_stack(failure: FailureDetails, stack: str) -> FailureDetails:
    return FailureDetails(failure.error_type, failure.message, stack, bases=failure.bases)


def step_from(task_id: str, request: Any) -> Step | None:
    """The engine's step behind a Celery request; None for a task that is not ours."""
    task = TaskId.parse(task_id)
    text = request.get(STEP_META_HEADER) if hasattr(request, "get") else None
    if task is None or not isinstance(text, str):
        return None
    if request.get(STEP_HEADER) != task.step:  # the take and the signature have checked only what this names
        return None
    header = read_header(text)
    group = None
    if request.get("group") and request.get("group_index") is not None:
        group = GroupRef(request.get("group"), int(request.get("group_index")), header.size)
    args = request.get("args") or ("[[],{}]",)
    return Step(task, str(request.get("task") or ""), str(args[0]), header, group)


def _undisturbed(write: Callable[P, None]) -> Callable[P, None]:
    """Report although the soft limit fires meanwhile: the activity has ended, so it is no failure any more.

    The limit fires once for a task, and every call to the store may be repeated.
    """

    @functools.wraps(write)
    def written(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            write(*args, **kwargs)
        except SoftTimeLimitExceeded:
            write(*args, **kwargs)

    return written


class OutcomeWriter:
    """Writes outcomes for one app. No state of its own; usable from any process and thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @_undisturbed
    def success(self, step: Step, result: str) -> None:
        """End the step with this JSON text."""
        settings = self._runtime.settings
        size = len(result) if result.isascii() else len(result.encode())
        if size > settings.max_payload:  # the task class has checked; a foreign caller has not
            error = PayloadTooLargeError(f"the result of {step.name!r} is {size:,} bytes")
            self.failure(step, Caught(failure_from(error)))
            return
        aside, seal = None, self._runtime.seal
        try:
            if size > settings.aside_over:
                # The attempt is in the name: a copy running meanwhile cannot change what was completed.
                aside = (f"p{step.task.seq}.{step.task.attempt}", seal.pack(result))
                result = f"@{aside[0]}"
            call = retrying.succeeded(self._runtime.store.keys, seal, step, result, aside)
        except SealedPayloadError as error:  # tried again for a minute, here or elsewhere
            self.failure(step, Caught(failure_from(error)))
            return
        self._close(step, call)

    @_undisturbed
    def failure(self, step: Step, caught: Caught) -> None:
        """Park the next attempt, or end the step with this failure."""
        now = self.settle(command(b"TIME", decode=_milliseconds))
        if caught.failure.is_caused_by(ActivityWorkerLostError):
            step = self._counted(step)
        seal, most = self._runtime.seal, self._runtime.settings.max_lost
        again = retrying.judge(step, caught.failure, now, caught.delay, most, seal)
        keys, emitter = self._runtime.store.keys, self._runtime.emitter
        if self._close(step, retrying.failed(keys, emitter, seal, step, caught.failure, again, now)):
            _tell(step, caught.failure, again, seal)

    def _counted(self, step: Step) -> Step:
        """The step with all deaths in a row: its message does not know of whole workers that died with it."""
        task, header = step.task, step.header
        found = self.settle(steps.deaths(self._runtime.store.keys, task.execution, task.seq))
        lost = max(found, header.notes.lost)
        return step._replace(header=replace(header, notes=replace(header.notes, lost=lost)))

    def settle(self, call: Call[T]) -> T:
        """Run a call until it is answered; Reject when the worker stops before that."""
        pause, give_up_at, complaints = FIRST_PAUSE, 0.0, Complaints(logger)
        store = self._runtime.store
        while True:
            try:
                with forking.allowed():
                    reply = store.run(call)
                complaints.over("an outcome could be written")
                return reply
            except GoneError:
                raise
            except (RedisUnavailableError, StoreError) as error:
                if self._runtime.stopping:
                    give_up_at = give_up_at or time.monotonic() + GRACE
                    if time.monotonic() >= give_up_at:
                        logger.warning("stopping with an outcome unwritten, its message goes back: %s", error)
                        raise Reject(error, requeue=True) from error
                    with forking.allowed():
                        time.sleep(random.uniform(0.1, 0.5))
                    continue
                complaints.about("an outcome cannot be written yet, trying on: %s", error)
                with forking.allowed():
                    self._runtime.wait(random.uniform(pause / 2, pause))
                pause = min(MAX_PAUSE, pause * 2)

    def _close(self, step: Step, call: Call[str]) -> bool:
        try:
            reply = self.settle(call)
        except GoneError:
            reply = "GONE"
        if reply != "OK":
            logger.info("outcome of %s (%s) not needed any more: %s", step.name, step.task, reply)
        return reply == "OK"


def _tell(step: Step, failure: FailureDetails, again: retrying.Again | None, seal: Seal) -> None:
    """One line for an attempt that is followed by another; the traceback when it was the last."""
    what = f"attempt {step.task.attempt} of {step.name} for instance {step.task.instance}"
    error = f"{failure.error_type}: {seal.masked(failure.message[:MAX_LOGGED])}"
    if again is not None:
        logger.warning(
            "%s failed (%s); the next one follows in %.1f s",
            what,
            " ".join(error.split()),
            again.delay / 1000,
        )
    else:
        lines, inner = [failure.stack_trace.rstrip()], failure.inner
        while inner is not None:
            cause = f"{inner.error_type}: {seal.masked(inner.message[:MAX_LOGGED])}"
            lines += [f"caused by {cause}", inner.stack_trace.rstrip()]
            inner = inner.inner
        logger.error("%s failed and was the last: %s\n%s", what, error, "\n".join(filter(None, lines)))


def _milliseconds(reply: Any) -> int:
    return int(reply[0]) * 1000 + int(reply[1]) // 1000
