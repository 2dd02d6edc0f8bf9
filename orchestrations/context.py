"""OrchestrationContext: all that an orchestrator may ask of the world.

Each verb asks for one thing and returns the task for it. Everything here is repeatable: on a replay
the same calls get the same answers. Whatever else an orchestrator needs (a clock, a file, a network)
belongs into an activity.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar, overload

import msgspec

from . import codec
from .commands import check_event_name, check_instance_id, child_id
from .deterministic import Chance, ReplaySafeLogger, milliseconds, moment
from .errors import ContinueAsNew
from .history import (
    CustomStatusSet,
    EventSent,
    ExecutionStarted,
    GroupScheduled,
    Part,
    PatchMarker,
    SubOrchestrationInstanceCreated,
    TaskScheduled,
)
from .references import ActivityReference, activity_parts, orchestrator_parts
from .registry import Orchestrator
from .retry import RetryPolicy
from .run import Run
from .steps import NO_DEFAULT, ActivityTask, ChildTask, EventOrTimeout, EventTask, MapTask, TimerTask
from .tasks import AllTask, Task

__all__ = ["OrchestrationContext", "ParentClose"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - I for input, O for output, as in registry.py
O = TypeVar("O")  # noqa: E741

ParentClose = Literal["terminate", "cancel", "abandon"]

MAX_CUSTOM_STATUS = 16 * 1024
# Part of replay rule 1: other numbers would make old histories take other branches.
SUGGESTED_LENGTH = 10_000
SUGGESTED_SIZE = 8 * 1024 * 1024

_parts_encoder = msgspec.json.Encoder()


def _optional(value: Any) -> str | None:
    return None if value is None else codec.encode(value)


class OrchestrationContext:
    """The first argument of every orchestrator."""

    def __init__(self, run: Run, started: ExecutionStarted, version: str, input: Any) -> None:
        self._run = run
        self._started = started
        self._version = version
        self._input = input
        self._chance = Chance(started.execution)
        self._logger: ReplaySafeLogger | None = None

    # --- who and when ----------------------------------------------------------------------------

    @property
    def instance_id(self) -> str:
        """The id of this instance."""
        return self._started.instance

    @property
    def parent_instance_id(self) -> str | None:
        """The id of the instance that called this one; None for one started by a client."""
        return self._started.parent or None

    @property
    def name(self) -> str:
        """The name of the orchestrator."""
        return self._started.name

    @property
    def version(self) -> str:
        """The version this instance runs; empty when the orchestrator has none."""
        return self._version

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags this instance was started with."""
        return dict(self._started.tags)

    def get_input(self) -> Any:
        """The input, as the orchestrator's second parameter would get it."""
        return self._input

    @property
    def current_utc_datetime(self) -> datetime:
        """The time of the event being applied, aware, in UTC; it stands still between two awaits."""
        return moment(self._run.at)

    @property
    def is_replaying(self) -> bool:
        """True while recorded steps are repeated. Branch on it for output only, never for commands."""
        return self._run.replaying

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that is silent while replaying."""
        if self._logger is None:
            self._logger = ReplaySafeLogger(self._started.name, self._run)
        return self._logger

    @property
    def history_length(self) -> int:
        """How many events the history holds up to the one being applied."""
        return self._run.history_length

    @property
    def history_size(self) -> int:
        """About how many bytes the history takes up to the event being applied."""
        return self._run.history_size

    @property
    def continue_as_new_suggested(self) -> bool:
        """True once the history is so long that a replay of it takes noticeable time."""
        return self._run.history_length >= SUGGESTED_LENGTH or self._run.history_size >= SUGGESTED_SIZE

    def new_uuid(self) -> uuid.UUID:
        """A uuid that is the same on every replay."""
        return self._chance.uuid()

    def random(self) -> random.Random:
        """A random number generator that gives the same numbers on every replay."""
        return self._chance.random()

    # --- activities ------------------------------------------------------------------------------

    @overload
    def call_activity(
        self, activity: ActivityReference[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[R]: ...
    @overload
    def call_activity(self, activity: str, /, *args: Any, **kwargs: Any) -> Task[Any]: ...
    def call_activity(self, activity: Any, /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Schedule an activity with these arguments. Options ride on it: `act.with_options(retry=...)`."""
        name, options, type_ = activity_parts(activity, "call_activity")
        text = codec.encode_call(args, kwargs)
        run = self._run
        command = TaskScheduled(at=run.at, seq=run.take_seq(), name=name, input=text, options=options)
        return ActivityTask(run, command, type_)

    @overload
    def map(
        self,
        activity: ActivityReference[[T], R],
        items: Iterable[T],
        /,
        max_parallel: int | None = None,
        *,
        return_exceptions: Literal[False] = False,
    ) -> Task[list[R]]: ...
    @overload
    def map(
        self,
        activity: ActivityReference[[T], R],
        items: Iterable[T],
        /,
        max_parallel: int | None = None,
        *,
        return_exceptions: bool,
    ) -> Task[list[R | Exception]]: ...
    @overload
    def map(
        self,
        activity: str,
        items: Iterable[Any],
        /,
        max_parallel: int | None = None,
        *,
        return_exceptions: bool = False,
    ) -> Task[list[Any]]: ...
    def map(
        self, activity: Any, items: Iterable[Any], /,
        max_parallel: int | None = None, *, return_exceptions: bool = False,
    ) -> Task[list[Any]]:  # fmt: skip
        """Call a one-argument activity for every item, at most `max_parallel` at once; results in order.

        One task however many items, so it suits very wide fan-outs. It fails when all have ended, with the
        first failure in order (all in `.failures`), or with `return_exceptions` hands them over in the list.
        """
        name, options, type_ = activity_parts(activity, "map")
        if max_parallel is not None and (type(max_parallel) is not int or max_parallel < 1):
            raise ValueError(f"map: max_parallel must be a number from 1, or None; got {max_parallel!r}")
        parts = [Part(name, codec.encode_call((item,), {})) for item in items]
        if not parts:
            return AllTask((), return_exceptions, False)
        run = self._run
        command = GroupScheduled(
            at=run.at, seq=run.take_seq(len(parts)), size=len(parts), name=name,
            parts=_parts_encoder.encode(parts).decode(), options=(options,), window=max_parallel or 0,
        )  # fmt: skip
        return MapTask(run, command, type_, return_exceptions)

    # --- other instances -------------------------------------------------------------------------

    @overload
    def call_sub_orchestrator(
        self,
        orchestrator: Orchestrator[I, O],
        input: I | None = None,
        *,
        instance_id: str | None = None,
        retry: RetryPolicy | None = None,
        version: str | None = None,
        parent_close: ParentClose = "terminate",
        tags: Mapping[str, str] | None = None,
    ) -> Task[O]: ...
    @overload
    def call_sub_orchestrator(
        self,
        orchestrator: str,
        input: Any = None,
        *,
        instance_id: str | None = None,
        retry: RetryPolicy | None = None,
        version: str | None = None,
        parent_close: ParentClose = "terminate",
        tags: Mapping[str, str] | None = None,
    ) -> Task[Any]: ...
    def call_sub_orchestrator(
        self, orchestrator: Any, input: Any = None, *, instance_id: str | None = None,
        retry: RetryPolicy | None = None, version: str | None = None,
        parent_close: ParentClose = "terminate", tags: Mapping[str, str] | None = None,
    ) -> Task[Any]:  # fmt: skip
        """Run another orchestrator as a child and await its result.

        With `retry`, each further attempt is a new child after a durable timer, its id ending in the number
        of the attempt. `parent_close` says what this instance's end does to a child still running:
        "terminate" shares its fate (a cancelled parent cancels the child, so that it can compensate; one
        that completed, failed or was terminated terminates it), "cancel" always cancels it, and "abandon"
        lets it run on.
        """
        if parent_close not in ("terminate", "cancel", "abandon"):
            raise ValueError(f"parent_close must be terminate, cancel or abandon; got {parent_close!r}")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry takes a RetryPolicy, not {retry!r}")
        name, version, type_ = orchestrator_parts(orchestrator, version, "call_sub_orchestrator")
        command = self._child(name, version, input, instance_id, parent_close, False, tags)
        return ChildTask(self._run, command, type_, retry)

    def start_orchestration(
        self, orchestrator: Orchestrator[I, Any] | str, input: Any = None, *, instance_id: str | None = None,
        version: str | None = None, tags: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        """Start another orchestrator on its own, and return its id without waiting for it."""
        name, version, _ = orchestrator_parts(orchestrator, version, "start_orchestration")
        command = self._child(name, version, input, instance_id, "abandon", True, tags)
        self._run.issue(command)
        return command.instance

    def _child(
        self, name: str, version: str, input: Any, instance_id: str | None, parent_close: str, detached: bool,
        tags: Mapping[str, str] | None,
    ) -> SubOrchestrationInstanceCreated:  # fmt: skip
        if instance_id is not None:
            check_instance_id(instance_id)
        text = _optional(input)
        run = self._run
        seq = run.take_seq()
        return SubOrchestrationInstanceCreated(
            at=run.at, seq=seq, name=name, instance=instance_id or child_id(run.instance, run.run, seq),
            version=version, input=text, parent_close=parent_close, detached=detached, tags=dict(tags or {}),
        )  # fmt: skip

    def send_event(self, instance_id: str, name: str, data: Any = None) -> None:
        """Raise an external event for another instance; its name must be one that clients may raise."""
        check_instance_id(instance_id)
        check_event_name(name)
        text = _optional(data)
        run = self._run
        run.issue(EventSent(at=run.at, seq=run.take_seq(), instance=instance_id, name=name, input=text))

    # --- waiting ---------------------------------------------------------------------------------

    def create_timer(self, due: datetime | timedelta) -> Task[None]:
        """A durable timer, of any length. One that is due already fires at once."""
        return TimerTask(self._run, milliseconds("create_timer", due, self._run.at))

    @overload
    def wait_for_external_event(
        self, name: str, type: type[R], timeout: timedelta | float | None = None, *, default: R = ...
    ) -> Task[R]: ...
    @overload
    def wait_for_external_event(
        self, name: str, type: Any = None, timeout: timedelta | float | None = None, *, default: Any = ...
    ) -> Task[Any]: ...
    def wait_for_external_event(
        self, name: str, type: Any = None, timeout: timedelta | float | None = None, *,
        default: Any = NO_DEFAULT,
    ) -> Task[Any]:  # fmt: skip
        """The next external event of this name (case does not count), read as `type`.

        It is taken while this is awaited; what comes earlier is kept. After `timeout` (a timedelta, or
        seconds) the task gives `default`, or without one raises TimeoutError.
        """
        waiter: EventTask[Any] = EventTask(self._run, name, Any if type is None else type)
        if timeout is None:
            return waiter
        timer = TimerTask(self._run, milliseconds("timeout", timeout, self._run.at))
        return EventOrTimeout(waiter, timer, default)

    # --- this instance ---------------------------------------------------------------------------

    def set_custom_status(self, value: Any) -> None:
        """Show a value to clients that ask for the status; at most 16 KiB as JSON."""
        text = _optional(value)
        if text is not None and len(size := text.encode()) > MAX_CUSTOM_STATUS:
            raise ValueError(
                f"the custom status takes {len(size)} bytes; {MAX_CUSTOM_STATUS} are allowed: show a summary"
            )
        run = self._run
        run.issue(CustomStatusSet(at=run.at, value=text))
        run.custom_status = text

    def continue_as_new(self, input: Any = None, *, preserve_events: bool = True) -> NoReturn:
        """End this run and start the next one with an empty history. Raises, so nothing after it runs.

        External events that nobody has taken go to the next run, unless `preserve_events` is False.
        """
        self._run.next_run = (_optional(input), bool(preserve_events))
        raise ContinueAsNew

    def patched(self, change_id: str) -> bool:
        """Guard a change of code: True where the new code may run, False in a history that began before.

        The first answer in an execution holds to its end.
        """
        run = self._run
        known = run.patches.get(change_id)
        if known is None:
            known = not run.replaying or any(
                isinstance(command, PatchMarker) and command.change == change_id for command in run.expected
            )
            run.patches[change_id] = known
            if known:
                run.issue(PatchMarker(at=run.at, change=change_id))
        return known
