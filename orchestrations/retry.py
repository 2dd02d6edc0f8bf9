"""When a failed activity or sub-orchestration is tried again.

`RetryPolicy` is plain data, checked when it is made and carried as JSON with each call. `decide` is pure:
the same failure, attempt and times give the same delay, in every process. Nothing here sleeps, reads a
clock or draws a random number; jitter is derived from a seed. A policy's handler, the author's function
that tells transient from permanent errors, is only named here and called by whoever runs the retry.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

import msgspec

from .errors import (
    RETRY_AFTER,
    AuthoringError,
    FailureDetails,
    NonRetryableError,
    RetryAfter,
    qualified_name,
)

__all__ = ["RetryContext", "RetryPolicy", "asked_delay", "decide"]

LONGEST_DELAY = 365 * 24 * 3600 * 1000
"""No delay is longer than a year (ms), however large the coefficient grows."""

_ZERO = timedelta(0)
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class RetryContext:
    """What a retry handler is told about the failure it judges."""

    attempt: int  # the one that failed, from 1
    failure: FailureDetails
    elapsed: timedelta  # since the first schedule
    instance_id: str


class _Form(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=False):
    """A policy as JSON; times in milliseconds."""

    first: int
    max: int | None = None
    coefficient: float = 1.0
    cap: int | None = None
    timeout: int | None = None
    jitter: float = 0.0
    on: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    handler: str = ""


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after which delays, a failure is tried again.

    The delay before attempt n+1 is `first_retry_interval * backoff_coefficient ** (n-1)`, at most
    `max_retry_interval`, and shortened by up to the fraction `jitter`. Attempts end at
    `max_number_of_attempts` (None: never) or when `retry_timeout` has passed since the first schedule.
    `retry_on` and `do_not_retry_on` hold exception classes or names; `handler` is an importable function
    `(RetryContext) -> bool | timedelta`, or its name as "module:qualname".

    An activity's handler runs on the worker and may take 2 s. For sub-orchestrations it runs inside the
    turn, with no limit but the turn's own, and again on every replay: it must answer at once, and from
    its argument alone.
    """

    first_retry_interval: timedelta
    max_number_of_attempts: int | None = None
    backoff_coefficient: float = 1.0
    max_retry_interval: timedelta | None = None
    retry_timeout: timedelta | None = None
    jitter: float = 0.0
    retry_on: Sequence[type[BaseException] | str] = ()
    do_not_retry_on: Sequence[type[BaseException] | str] = ()
    handler: Callable[[RetryContext], bool | timedelta] | str | None = None

    def __post_init__(self) -> None:
        _check_time("first_retry_interval", self.first_retry_interval)
        if (most := self.max_number_of_attempts) is not None and (type(most) is not int or most < 1):
            raise ValueError(
                f"max_number_of_attempts must be a whole number from 1, or None for ever; got {most!r}"
            )
        _check_number("backoff_coefficient", self.backoff_coefficient, 1.0, math.inf)
        _check_number("jitter", self.jitter, 0.0, 1.0)
        if self.max_retry_interval is not None:
            _check_time("max_retry_interval", self.max_retry_interval)
            if self.max_retry_interval < self.first_retry_interval:
                raise ValueError(
                    f"max_retry_interval ({self.max_retry_interval}) must not be shorter than "
                    f"first_retry_interval ({self.first_retry_interval})"
                )
        if self.retry_timeout is not None:
            _check_time("retry_timeout", self.retry_timeout)
        object.__setattr__(self, "retry_on", _error_names("retry_on", self.retry_on))
        object.__setattr__(self, "do_not_retry_on", _error_names("do_not_retry_on", self.do_not_retry_on))
        object.__setattr__(self, "handler", handler_name(self.handler))

    def to_json(self) -> str:
        """The policy as JSON text; `from_json` reads it back, in any process."""
        form = _Form(
            first=_milliseconds(self.first_retry_interval),
            max=self.max_number_of_attempts,
            coefficient=float(self.backoff_coefficient),
            cap=None if self.max_retry_interval is None else _milliseconds(self.max_retry_interval),
            timeout=None if self.retry_timeout is None else _milliseconds(self.retry_timeout),
            jitter=float(self.jitter),
            on=tuple(map(str, self.retry_on)),
            never=tuple(map(str, self.do_not_retry_on)),
            handler=str(self.handler or ""),
        )
        return msgspec.json.encode(form).decode()

    @staticmethod
    def from_json(text: str) -> RetryPolicy:
        """The policy in `text`, written by `to_json`."""
        return _from_json(text)

    def load_handler(self) -> Callable[[RetryContext], bool | timedelta] | None:
        """The handler's function, of a module that is loaded; AuthoringError when its name leads nowhere."""
        return None if self.handler is None else _load(str(self.handler))


@lru_cache(maxsize=1024)
def _from_json(text: str) -> RetryPolicy:
    form = msgspec.json.decode(text, type=_Form)
    return RetryPolicy(
        first_retry_interval=form.first * _MS,
        max_number_of_attempts=form.max,
        backoff_coefficient=form.coefficient,
        max_retry_interval=None if form.cap is None else form.cap * _MS,
        retry_timeout=None if form.timeout is None else form.timeout * _MS,
        jitter=form.jitter,
        retry_on=form.on,
        do_not_retry_on=form.never,
        handler=form.handler or None,
    )


def asked_delay(failure: FailureDetails) -> timedelta | None:
    """The delay asked for by the RetryAfter that this failure describes; None for any other failure."""
    delay = failure.properties.get(RETRY_AFTER)
    if type(delay) is not int or qualified_name(RetryAfter) not in (failure.error_type, *failure.bases):
        return None
    return min(max(0, delay), LONGEST_DELAY) * _MS


def decide(
    policy: RetryPolicy | None,
    failure: FailureDetails,
    attempt: int,
    first_at: int,
    now: int,
    seed: str,
    asked_delay: timedelta | None = None,
    handler_verdict: bool | timedelta | None = None,
) -> int | None:
    """The delay in milliseconds before the next attempt, or None to give up. Pure.

    `attempt` is the one that failed, from 1; `first_at` and `now` are in milliseconds. `asked_delay` is
    that of a RetryAfter that was raised: it stands for the delay and overrules filters and handler, but
    neither the number of attempts nor the time-out. `handler_verdict` is what the policy's handler
    answered, None when there is none.
    """
    if policy is None:
        return None
    if policy.max_number_of_attempts is not None and attempt >= policy.max_number_of_attempts:
        return None
    if policy.retry_timeout is not None and (now - first_at) * _MS >= policy.retry_timeout:
        return None
    if asked_delay is not None:
        return min(max(0, _milliseconds(asked_delay)), LONGEST_DELAY)
    if not _retryable(policy, failure) or handler_verdict is False:
        return None
    if isinstance(handler_verdict, timedelta):
        return min(max(0, _milliseconds(handler_verdict)), LONGEST_DELAY)
    return _jittered(_backoff(policy, attempt), policy.jitter, f"{seed}:{attempt}")


def _retryable(policy: RetryPolicy, failure: FailureDetails) -> bool:
    # Code that is wrong (an undecodable argument, an unknown name) is as wrong the next time.
    if failure.is_caused_by(NonRetryableError) or failure.is_caused_by(AuthoringError):
        return False
    if any(failure.is_caused_by(name) for name in policy.do_not_retry_on):
        return False
    return not policy.retry_on or any(failure.is_caused_by(name) for name in policy.retry_on)


def _backoff(policy: RetryPolicy, attempt: int) -> int:
    first = _milliseconds(policy.first_retry_interval)
    cap = LONGEST_DELAY
    if policy.max_retry_interval is not None:
        cap = min(cap, _milliseconds(policy.max_retry_interval))
    # Compared as logarithms, because coefficient ** attempt overflows a float after some hundred attempts.
    growth = (attempt - 1) * math.log(policy.backoff_coefficient)
    if math.log(first) + growth >= math.log(cap):
        return cap
    return min(cap, round(first * policy.backoff_coefficient ** (attempt - 1)))


def _jittered(delay: int, jitter: float, seed: str) -> int:
    if not jitter:
        return delay
    fraction = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=6).digest(), "big") / 2**48
    return round(delay * (1.0 - jitter * fraction))


def _milliseconds(time: timedelta) -> int:
    return math.ceil(time / _MS)


def _check_time(field: str, value: Any) -> None:
    if not isinstance(value, timedelta):
        raise ValueError(f"{field} must be a timedelta, such as timedelta(seconds=5); got {value!r}")
    if value <= _ZERO:
        raise ValueError(f"{field} must be longer than nothing; got {value}")


def _check_number(field: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        upper = "" if math.isinf(high) else f" to {high}"
        raise ValueError(f"{field} must be a number from {low}{upper}; got {value!r}")


def _error_names(field: str, errors: Any) -> tuple[str, ...]:
    if isinstance(errors, str | type):
        raise ValueError(f"{field} must be a list or tuple of exception classes or names; got {errors!r}")
    names: list[str] = []
    for error in errors:
        if isinstance(error, type) and issubclass(error, BaseException):
            if issubclass(error, RetryAfter) and field == "do_not_retry_on":
                raise ValueError("do_not_retry_on cannot hold RetryAfter, which asks for a retry")
            names.append(qualified_name(error))
        elif isinstance(error, str) and error:
            names.append(error)
        else:
            raise ValueError(
                f"{field} holds {error!r}, which is neither an exception class nor the name of one"
            )
    return tuple(names)


def handler_name(handler: Any) -> str | None:
    """A handler as "module:qualname"; ValueError when another process could not import it by that."""
    if handler is None:
        return None
    if isinstance(handler, str):
        module, colon, name = handler.partition(":")
        if not (module and colon and name):
            raise ValueError(f"handler must be named as 'module:qualname'; got {handler!r}")
        return handler
    module, name = getattr(handler, "__module__", None), getattr(handler, "__qualname__", None)
    if not callable(handler) or not module or not name:
        raise ValueError(
            f"handler must be a function defined in a module, or 'module:qualname'; got {handler!r}"
        )
    if "<" in name:
        what = "a lambda" if "<lambda>" in name else "defined inside another function"
        raise ValueError(
            f"handler {module}:{name} is {what}, so a worker cannot import it; define it at module level"
        )
    if inspect.iscoroutinefunction(handler):
        raise ValueError(
            f"handler {module}:{name} is async; it must be a plain function that answers at once"
        )
    found = _walk(sys.modules.get(module), name)
    if found is not None and inspect.unwrap(found) is not inspect.unwrap(handler):
        raise ValueError(
            f"handler {module}:{name} is not what that name stands for in its module; give it a name there"
        )
    return f"{module}:{name}"


def _walk(start: Any, path: str) -> Any:
    for step in path.split("."):
        start = getattr(start, step, None)
    return start


@lru_cache(maxsize=256)
def _load(name: str) -> Callable[[RetryContext], Any]:
    # Never imported: the name comes out of a message or a history, and to import is to run code.
    module, _, path = name.partition(":")
    if module not in sys.modules:
        raise AuthoringError(
            f"the retry handler {name} is not at hand: import {module} in a module that this process serves"
        )
    found = _walk(sys.modules[module], path)
    if not callable(found):
        raise AuthoringError(f"the retry handler {name} cannot be found: {module} has no function {path}")
    return found
