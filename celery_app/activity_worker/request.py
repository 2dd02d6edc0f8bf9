"""Celery's request of an activity, in the worker's main process.

Only prefork needs it: there the parent reports what a child cannot, a hard time limit and a lost process.
That takes calls to Redis, perhaps a retry handler, perhaps a long wait for Redis to come back, and must
not happen in the worker's event loop. So it is handed to one thread, and the message is acknowledged
after the outcome is written, never before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery import Celery
from celery.concurrency.base import BasePool
from celery.exceptions import Reject, Terminated, TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request

from .. import forking
from .runtime import runtime_of

__all__ = ["ActivityRequest", "later", "left_to_the_audit"]

logger = logging.getLogger("celeriac.activity")

_executor: ThreadPoolExecutor | None = None


def later(job: Callable[[], None]) -> None:
    """Run a job in the process' one reporting thread, in order. It is waited for when the process ends."""
    global _executor
    if _executor is None:
        # In the main process of a worker only, which replaces a dead child while its death is reported here.
        _executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="celeriac-outcomes")
    _executor.submit(_guarded, job)


def _guarded(job: Callable[[], None]) -> None:
    with forking.held_off():
        try:
            job()
        except Exception:  # the thread must go on to the next outcome
            logger.exception(
                "an outcome could not be reported; its message comes back when this worker is gone"
            )


def left_to_the_audit(app: Celery, task_id: str) -> bool:
    """After an unexpected error in reporting: whether to acknowledge the message all the same.

    Unacknowledged it would be held for as long as this worker lives. Without it the audit finds the step, and
    has it run again, ever more rarely. On kombu's own transport it does not.
    """
    if runtime_of(app).settings.transport == "stock":
        return False
    logger.exception("the outcome of %s could not be reported; the audit has it run again", task_id)
    return True


class ActivityRequest(Request):
    """Reports from the main process in another thread; acknowledges after the outcome is written."""

    _holding = False
    _held = False

    def __init__(self, message: Any, **kwargs: Any) -> None:
        # Decoded once, not here and in the pool again. Celery has decoded it, and so checked it, already.
        super().__init__(message, **{**kwargs, "body": message.payload, "decoded": True})

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """The time limit passed; at the hard one the child has been killed."""
        if soft:
            super().on_timeout(soft, timeout)
        else:
            later(lambda: self._report(super(ActivityRequest, self).on_timeout, soft, timeout))

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """The attempt failed. What a child has reported itself needs only its acknowledgement."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        reported_by_child = return_ok and not isinstance(error, _ONLY_SEEN_HERE)
        if reported_by_child:
            return super().on_failure(exc_info, send_failed_event, return_ok)
        later(
            lambda: self._report(
                super(ActivityRequest, self).on_failure, exc_info, send_failed_event, return_ok
            )
        )
        return None

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Stop the attempt, at a cold shutdown. What a pool cannot kill ends by itself, or with the process.

        Celery would raise NotImplementedError there, in the solo pool even inside the activity.
        """
        if type(pool).terminate_job is not BasePool.terminate_job:
            super().cancel(pool, signal, emit_retry)

    def acknowledge(self) -> None:
        """Acknowledge, or remember to do it once the outcome is written."""
        if self._holding:
            self._held = True
        elif getattr(self.message.channel, "runs_here", False) and not self.acknowledged:
            # Celery has its loop do it, for pools whose threads may not. Here nobody else is at the channel.
            self.acknowledged = True
            self.message.ack_log_error(logger, self._connection_errors)
        else:
            super().acknowledge()

    def _report(self, report: Callable[..., Any], *args: Any) -> None:
        self._holding, self._held = True, False
        try:
            report(*args)
        except Reject as error:
            self._holding = self._held = False
            self.reject(requeue=error.requeue)
        except Exception:
            if not left_to_the_audit(self.task.app, str(self.id)):
                raise
            self._held = True
        finally:
            self._holding = False
        if self._held:
            self.acknowledge()


_ONLY_SEEN_HERE = (WorkerLostError, TimeLimitExceeded, Terminated, SystemExit, KeyboardInterrupt)
