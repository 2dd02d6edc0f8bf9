"""Celery's consumer, changed where it would lose an activity's message.

A worker that takes an activity it does not know (a deploy in progress) parks the message and tries again
later, for up to a minute; then the step fails, naming the activity. A message that cannot be read is
set aside and sent again; on kombu's own transport it fails its step. Failures are reported in the
reporting thread, and the message leaves the queue's record only afterwards.
"""

from __future__ import annotations

import logging
import random
from typing import Any, cast

from celery import Celery
from celery.exceptions import Reject
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.state import maybe_shutdown

from celeriac.orchestrations.errors import UnknownActivityError, failure_from

from ..complaints import Complaints
from ..messages import STEP_META_HEADER, Step
from .outcomes import Caught, OutcomeWriter, caught_from, step_from
from .request import later, left_to_the_audit
from .runtime import runtime_of

__all__ = ["Consumer"]

logger = logging.getLogger("celeriac.activity")


class Consumer(CeleryConsumer):
    """Keeps activities that Celery would drop."""

    def __init__(self, *args: Any, worker_options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        # Talking to other workers needs remote control, which is off; at the start it would wait for answers.
        quiet = {"without_mingle": True, "without_gossip": True}
        super().__init__(*args, worker_options={**(worker_options or {}), **quiet}, **kwargs)
        self._writer = OutcomeWriter(runtime_of(cast(Celery, self.app)))

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long that takes. Celery would wait for up to 30 s between tries, and all workers
        would come back at the same moments: these pauses are at most 5 s, and differ from worker to worker.
        """
        trouble = Complaints(logger)
        conn.ensure_connection(
            lambda error, _: trouble.about("Redis is away, trying again: %s", error),
            interval_start=random.uniform(0.1, 0.5),
            interval_step=random.uniform(0.2, 0.6),
            interval_max=random.uniform(3.0, 5.0),
            callback=maybe_shutdown,
        )
        trouble.over("Redis answers again")
        self.first_connection_attempt = False
        return conn

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """No task of this name is registered here."""
        step = _step(message)
        if step is None:
            super().on_unknown_task(body, message, exc)
            return
        later(lambda: self._settle(message, step, _unknown(step)))

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """The message is no valid task."""
        self._unreadable(message, exc, lambda: super(Consumer, self).on_invalid_task(body, message, exc))

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """The body cannot be decoded."""
        self._unreadable(message, exc, lambda: super(Consumer, self).on_decode_error(message, exc))

    def _unreadable(self, message: Any, exc: BaseException, otherwise: Any) -> None:
        step = _step(message)
        if step is None:
            otherwise()
            return
        # The step is right, its message is not: the audit has another one made.
        set_aside = getattr(message.channel, "set_aside", None)
        if set_aside is not None and set_aside(str(message.delivery_tag), f"{type(exc).__name__}: {exc}"):
            return
        logger.error("a message of %s (%s) cannot be read: %r", step.name, step.task, exc)
        later(lambda: self._settle(message, step, caught_from(exc, step)))

    def _settle(self, message: Any, step: Step, caught: Caught) -> None:
        try:
            self._writer.failure(step, caught)
        except Reject:
            message.reject_log_error(logger, self.connection_errors, requeue=True)
            return
        except Exception:
            if not left_to_the_audit(cast(Celery, self.app), str(step.task)):
                raise
        message.ack_log_error(logger, self.connection_errors)


def _step(message: Any) -> Step | None:
    headers = message.headers or {}
    if not isinstance(headers.get(STEP_META_HEADER), str):
        return None
    try:
        args = message.payload[0]
    except Exception:  # noqa: BLE001 - an unreadable body is what on_decode_error is called for
        args = None
    return step_from(str(headers.get("id") or ""), {**headers, "args": args})


def _unknown(step: Step) -> Caught:
    problem = (
        f"activity {step.name!r} is not registered in a worker that serves its queue; "
        "start the workers with --app naming the module that defines it"
    )
    logger.error("%s (wanted by %s)", problem, step.task.instance)
    return Caught(failure_from(UnknownActivityError(problem)))
