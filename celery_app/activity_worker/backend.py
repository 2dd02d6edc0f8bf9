"""The Celery result backend: a finished activity becomes one completion.

Celery calls the `mark_as_*` family before it acknowledges a message late, in the pool's process or
thread, and in the worker's main process for what a child cannot report itself. For the engine's task ids
these methods write the outcome into the engine's store and nothing else; no `celery-task-meta` key comes
into being. For every other task this is Celery's own Redis backend.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import states
from celery.backends.redis import RedisBackend
from celery.backends.redis import SentinelBackend as CelerySentinelBackend
from celery.exceptions import WorkerLostError

from ..messages import Step, TaskId
from .outcomes import Caught, OutcomeWriter, caught_from, step_from
from .runtime import runtime_of
from .task import CAUGHT, STEP

__all__ = ["Backend", "SentinelBackend"]

logger = logging.getLogger("celeriac.activity")


class Backend(RedisBackend):
    """Outcomes of activities go to the engine, results of foreign tasks to Redis as ever."""

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """The activity returned; `result` is its encoded result."""
        step = self._step(task_id, request)
        if step is None:
            super().mark_as_done(task_id, result, request, store_result, state)
        elif step.group is not None:
            self.on_chord_part_return(request, state, result)
        else:
            self._writer().success(step, result)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """The attempt failed: its next one is parked, or the step ends. Twice is as good as once."""
        step = self._step(task_id, request)
        if step is not None:
            self._failed(step, exc, request)
        elif TaskId.parse(task_id) is None:
            super().mark_as_failure(task_id, exc, traceback, request, store_result, call_errbacks, state)
        else:
            logger.error(
                "a failure of %s came without its headers and is not reported: %s", task_id, type(exc)
            )

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Someone revoked or killed the task through Celery: to the engine, its process was lost."""
        if TaskId.parse(task_id) is None:
            super().mark_as_revoked(task_id, reason, request, store_result, state)
            return
        step = self._step(task_id, request)
        if step is not None:
            self._failed(
                step, WorkerLostError(f"revoked through Celery ({reason or 'no reason given'})"), request
            )

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """Celery's own retry; an activity's retry is the engine's, so for one there is nothing to note."""
        if TaskId.parse(task_id) is None:
            return super().mark_as_retry(task_id, exc, traceback, request, store_result, state)
        return None

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """The take has noted who runs an activity."""
        return None if TaskId.parse(task_id) else super().mark_as_started(task_id, **meta)

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        """The way in for whatever else reports a task; an activity leaves no result key."""
        return (
            None if TaskId.parse(task_id) else super().store_result(task_id, result, state, *args, **kwargs)
        )

    def on_chord_part_return(
        self, request: Any, state: str, result: Any, propagate: bool | None = None, **kwargs: Any
    ) -> None:
        """One part of a group has ended. The engine's join is in the script that records the part."""
        step = self._step(getattr(request, "id", ""), request)
        if step is None:
            super().on_chord_part_return(request, state, result, propagate, **kwargs)
        elif state == states.SUCCESS:
            self._writer().success(step, result)
        else:
            self._failed(step, result, request)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """The size of one of the engine's groups was written by the commit that opened it."""
        if not _is_our_group(group_id):
            super().set_chord_size(group_id, chord_size)

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """The engine's groups are opened by a commit."""
        if not _is_our_group(header_result_args[0]):
            super().apply_chord(header_result_args, body, **kwargs)

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Nobody waits for an activity's result through Celery."""
        if TaskId.parse(task_id) is None:
            super().on_task_call(producer, task_id)

    def _step(self, task_id: str, request: Any) -> Step | None:
        read = getattr(request, STEP, None)
        if isinstance(read, Step) and request.id == task_id:  # no header can hold a Step
            return read
        return None if request is None else step_from(task_id, request)

    def _writer(self) -> OutcomeWriter:
        return OutcomeWriter(runtime_of(self.app))

    def _failed(self, step: Step, error: BaseException, request: Any) -> None:
        caught = getattr(request, CAUGHT, None)
        self._writer().failure(step, caught if isinstance(caught, Caught) else caught_from(error, step))


class SentinelBackend(Backend, CelerySentinelBackend):
    """The same where sentinels say which Redis is the master."""


def _is_our_group(group_id: Any) -> bool:
    return isinstance(group_id, str) and TaskId.parse(f"{group_id}:0:-") is not None
