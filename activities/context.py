"""What a running activity knows about itself, and can tell the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, ClassVar

__all__ = ["INJECTED", "ActivityContext"]

_current: ContextVar[ActivityContext | None] = ContextVar("celeriac_activity", default=None)


def _no_heartbeat(progress: Any) -> None:
    """Outside a worker nobody listens for a heartbeat."""


def _nothing_left() -> Any:
    return None


def _never_cancelled() -> bool:
    return False


class ActivityContext:
    """The context of one attempt of an activity.

    Get it by `ActivityContext.current()`, or by a parameter annotated `ActivityContext`; callers do not see
    that parameter (give it the default `INJECTED` so that type checkers do not ask callers for it either).

    `instance_id`, `execution_id` and `seq` together name the step: they are the same for every attempt of
    it, so `idempotency_key` is what to hand to a payment gateway. `attempt` counts from 1. `deadline` is
    when this attempt will be given up (aware UTC), None without a time limit. `tags` are those of
    `with_options(tags=)`.
    """

    __celeriac_injected__: ClassVar[bool] = True

    def __init__(
        self,
        *,
        instance_id: str,
        execution_id: str,
        seq: int,
        attempt: int = 1,
        name: str = "",
        deadline: datetime | None = None,
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
        heartbeat: Callable[[Any], None] = _no_heartbeat,
        last_heartbeat: Callable[[], Any] = _nothing_left,
        tags: Mapping[str, str] | None = None,
        is_cancelled: Callable[[], bool] = _never_cancelled,
    ) -> None:
        self.instance_id, self.execution_id, self.seq = instance_id, execution_id, seq
        self.attempt, self.name, self.deadline = attempt, name, deadline
        self.logger = logger or logging.LoggerAdapter(
            logging.getLogger(f"celeriac.activity.{name}" if name else "celeriac.activity"),
            {"instance_id": instance_id, "seq": seq, "attempt": attempt},
        )
        self._heartbeat, self._is_cancelled = heartbeat, is_cancelled
        self._last_heartbeat = last_heartbeat
        self.tags = dict(tags or {})

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step, and for no other step of any instance."""
        return f"{self.execution_id}:{self.seq}"

    def heartbeat(self, progress: Any = None) -> None:
        """Say that this attempt is alive: moves the deadline that the option `heartbeat` set.

        An attempt that lets that interval pass without a call fails with `ActivityTimeoutError` and is
        retried as its policy says. For an activity declared without `heartbeat` only `progress` counts.
        That is any JSON value of at most 4 KiB (PayloadTooLargeError): `celeriac watch` shows it, and the
        next attempt finds it in `last_heartbeat`. Cheap: calls that follow each other closely are not sent,
        but the last progress is when the attempt fails.
        """
        self._heartbeat(progress)

    @property
    def last_heartbeat(self) -> Any:
        """The last progress that an earlier attempt of this step gave to `heartbeat`; None without any.

        Asked from Redis when it is first read, so it costs nothing when it is not.
        """
        return self._last_heartbeat()

    def is_cancelled(self) -> bool:
        """True once the outcome of this attempt is no longer wanted: stop early, and clean up."""
        return self._is_cancelled()

    @staticmethod
    def current() -> ActivityContext:
        """The context of the activity that runs here; RuntimeError when none does."""
        context = _current.get()
        if context is None:
            raise RuntimeError(
                "no activity is running here; ActivityContext.current() works inside an activity that a "
                "worker or celeriac.orchestrations.testing runs"
            )
        return context

    @staticmethod
    def current_or_local(name: str = "") -> ActivityContext:
        """The running activity's context, or a stand-in for a call as a plain function."""
        return _current.get() or ActivityContext(instance_id="local", execution_id="local", seq=0, name=name)

    @contextmanager
    def active(self) -> Iterator[ActivityContext]:
        """While the block runs, `ActivityContext.current()` is this one."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)

    def __repr__(self) -> str:
        return f"<activity {self.name} #{self.seq} of {self.instance_id}, attempt {self.attempt}>"


INJECTED: Any = None
"""The default for a parameter annotated `ActivityContext`: the engine gives the real one."""
