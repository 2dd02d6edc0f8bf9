"""`@activity`: a function becomes something an orchestrator can call and a worker can run.

The decorated object is still callable as the plain function. Its options (retry, queue, time limits, ...)
ride on the reference: `copy_file.with_options(retry=...)` is another reference to the same activity. A name
belongs to one function; taking it twice is a RegistrationError that names both places.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast, overload

from celeriac.orchestrations._annotations import Signature, describe, signature_of
from celeriac.orchestrations.errors import AuthoringError, RegistrationError
from celeriac.orchestrations.history import ActivityOptions
from celeriac.orchestrations.registry import check_name, location
from celeriac.orchestrations.retry import RetryPolicy

from .context import ActivityContext

__all__ = ["ACTIVITIES", "Activity", "ActivityRegistry", "AsyncActivity", "SyncActivity", "activity"]

P = ParamSpec("P")
R = TypeVar("R")
Seconds = timedelta | float | None

_UNSET: Any = object()
_QUEUE = re.compile(r"[A-Za-z0-9_.:@-]{0,128}")


class Activity(Generic[P, R]):
    """A reference to an activity: its name, its function and the options of a call."""

    def __init__(self, name: str, function: Callable[..., Any], options: ActivityOptions) -> None:
        functools.update_wrapper(cast("Any", self), function)  # first: it copies the function's attributes
        self.name, self.function, self.options = name, function, options
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))

    @functools.cached_property
    def signature_(self) -> Signature:
        """The parameters and types of the function, without an injected context."""
        return signature_of(self.function)

    @property
    def where(self) -> str:
        """Where the function is defined, as file:line."""
        return location(self.function)

    def signature(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Only for type checkers: parameters and (awaited) result of this activity. Not to be called."""
        raise TypeError(f"{self!r} is called by ctx.call_activity, or as a plain function")

    def with_options(
        self,
        *,
        retry: RetryPolicy | None = _UNSET,
        queue: str = _UNSET,
        priority: int = _UNSET,
        timeout: Seconds = _UNSET,
        schedule_to_start: Seconds = _UNSET,
        heartbeat: Seconds = _UNSET,
        tags: Mapping[str, str] | None = _UNSET,
        name: str = _UNSET,
    ) -> Self:
        """A reference with other options; those not named keep their values. Times: timedelta or seconds."""
        given = {
            "retry": retry, "queue": queue, "priority": priority, "timeout": timeout,
            "schedule_to_start": schedule_to_start, "heartbeat": heartbeat, "tags": tags,
        }  # fmt: skip
        options = make_options(
            self.options, {key: value for key, value in given.items() if value is not _UNSET}
        )
        new_name = self.name if name is _UNSET else check_name("activity", name)
        return type(self)(new_name, self.function, options)

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments for a plain call: with the context, if the function wants one and none is
        given.
        """
        wanted = self.signature_.injected
        if not wanted or wanted in kwargs or any(isinstance(arg, ActivityContext) for arg in args):
            return kwargs
        return {**kwargs, wanted: ActivityContext.current_or_local(self.name)}

    def __repr__(self) -> str:
        return f"<activity {self.name!r} at {self.where}>"


class SyncActivity(Activity[P, R]):
    """An activity whose function is a plain one."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now; no retry, no other process."""
        return _call(self, args, kwargs)


class AsyncActivity(Activity[P, R]):
    """An activity whose function is an `async def`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function; await what it returns."""
        return _call(self, args, kwargs)


def _call(reference: Activity[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = reference._arguments(args, kwargs)
    injected = reference.signature_.injected
    if named is kwargs:
        return reference.function(*args, **named)
    # The context may stand before the caller's positional arguments, so all of them are bound by name first.
    return bind_context(reference.function, injected, named.pop(injected), args, named)


def bind_context(
    function: Callable[..., Any], parameter: str, context: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call `function` with the caller's arguments and the context at its own parameter, wherever that
    stands.
    """
    kinds = inspect.signature(function).parameters
    if kinds[parameter].kind is inspect.Parameter.KEYWORD_ONLY:
        return function(*args, **kwargs, **{parameter: context})
    before = list(kinds).index(parameter)
    if len(args) >= before:
        return function(*args[:before], context, *args[before:], **kwargs)
    return function(*args, **kwargs, **{parameter: context})


class ActivityRegistry:
    """Activities by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Activity[..., Any]] = {}

    def add(self, reference: Activity[..., Any]) -> None:
        """Enter an activity; the same name from another place is refused."""
        known = self._by_name.get(reference.name)
        if known is not None and known.function is not reference.function and known.where != reference.where:
            raise RegistrationError(
                f"activity {reference.name!r} is defined twice: {known.where} and {reference.where}; "
                "give one of them another name"
            )
        self._by_name[reference.name] = reference

    def get(self, name: str) -> Activity[..., Any] | None:
        """The activity of this name, or None."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._by_name)


ACTIVITIES = ActivityRegistry()
"""Where `@activity` enters activities unless it is given another registry."""


class _Decorator:
    """What `@activity(...)` with options returns; typed like `@activity` itself."""

    def __init__(self, name: str | None, options: ActivityOptions, registry: ActivityRegistry) -> None:
        self._name, self._options, self._registry = name, options, registry

    # A coroutine is a result, too, so the overloads overlap; the first that fits is meant.
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload] - see above
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncActivity[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncActivity[P, R]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Any:
        plain = inspect.unwrap(fn)
        if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain) or not callable(fn):
            raise AuthoringError(
                f"{describe(fn)} cannot be an activity: write a function that returns its result"
            )
        name = check_name("activity", getattr(fn, "__name__", "") if self._name is None else self._name)
        kind = AsyncActivity if inspect.iscoroutinefunction(plain) else SyncActivity
        reference: Activity[..., Any] = kind(name, fn, self._options)
        self._registry.add(reference)
        return reference


@overload
def activity(  # pyright: ignore[reportOverlappingOverload] - as for _Decorator
    fn: Callable[P, Coroutine[Any, Any, R]], /
) -> AsyncActivity[P, R]: ...
@overload
def activity(fn: Callable[P, R], /) -> SyncActivity[P, R]: ...
@overload
def activity(
    *,
    name: str | None = None,
    retry: RetryPolicy | None = None,
    queue: str = "",
    priority: int = 0,
    timeout: Seconds = None,
    schedule_to_start: Seconds = None,
    heartbeat: Seconds = None,
    tags: Mapping[str, str] | None = None,
    registry: ActivityRegistry | None = None,
) -> _Decorator: ...
def activity(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retry: RetryPolicy | None = None,
    queue: str = "",
    priority: int = 0,
    timeout: Seconds = None,
    schedule_to_start: Seconds = None,
    heartbeat: Seconds = None,
    tags: Mapping[str, str] | None = None,
    registry: ActivityRegistry | None = None,
) -> Any:
    """Declare an activity: `@activity`, or `@activity(retry=..., queue=..., ...)`.

    Any function, sync or async, with any positional and keyword arguments. It runs at least once, so make it
    idempotent. `timeout` limits each attempt, `schedule_to_start` the wait for a worker, `heartbeat` the
    silence between two heartbeats (timedelta or seconds). `priority` is Celery's on Redis: 0, the default,
    goes first, 9 last.
    """
    options = make_options(
        ActivityOptions(),
        {
            "retry": retry, "queue": queue, "priority": priority, "timeout": timeout,
            "schedule_to_start": schedule_to_start, "heartbeat": heartbeat, "tags": tags,
        },
    )  # fmt: skip
    decorator = _Decorator(name, options, ACTIVITIES if registry is None else registry)
    return decorator if fn is None else decorator(fn)


def make_options(base: ActivityOptions, changes: Mapping[str, Any]) -> ActivityOptions:
    """`base` with an author's values in place; ValueError naming the option that is not acceptable."""
    form: dict[str, Any] = {name: getattr(base, name) for name in ActivityOptions.__struct_fields__}
    for option, value in changes.items():
        form[option] = _CHECKS[option](option, value)
    return ActivityOptions(**form)


def _retry(option: str, value: Any) -> str:
    if value is not None and not isinstance(value, RetryPolicy):
        raise ValueError(f"{option} must be a RetryPolicy or None; got {value!r}")
    return "" if value is None else value.to_json()


def _queue(option: str, value: Any) -> str:
    if not isinstance(value, str) or not _QUEUE.fullmatch(value):
        raise ValueError(
            f"{option} must be made of letters, digits and _ . : @ -, at most 128; got {value!r}"
        )
    return value


def _priority(option: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 9:
        raise ValueError(f"{option} must be a whole number from 0 to 9; got {value!r}")
    return value


def _tags(option: str, value: Any) -> dict[str, str]:
    tags = dict(value or {})
    if not all(isinstance(each, str) for pair in tags.items() for each in pair):
        raise ValueError(f"{option} must map strings to strings; got {value!r}")
    return tags


def _milliseconds(option: str, value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise ValueError(f"{option} must be a timedelta or a number of seconds; got {value!r}")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{option} must be longer than nothing; got {value!r}")
    return max(1, round(seconds * 1000))


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "retry": _retry,
    "queue": _queue,
    "priority": _priority,
    "tags": _tags,
    "timeout": _milliseconds,
    "schedule_to_start": _milliseconds,
    "heartbeat": _milliseconds,
}
