"""The kinds of history event, and their JSON form.

A history is a list of events, each a frozen value. A kind's number (its JSON tag `k`) is for ever:
never renumbered, never reused, because recorded histories outlive the code. New fields get defaults.

Some events come from outside (a completion, a fired timer, a raised event): applying one lets the
author's code run until it blocks, which is a *step*. The others record what the code asked for in
that step, in order. So a history reads: ExecutionStarted, what it asked for, next outside event,
what that led to, and so on.

`at` is in milliseconds since the epoch: for an outside event, the later of the event before it and
Redis' clock at its insertion; for a recorded command, the `at` of the step that issued it.

A payload (`input`, `result`, `output`, `value`) is JSON text, or `@reference` to text that the
store keeps aside because it is large. `None` means that no value was given.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from .errors import Attempt, FailureDetails

PAYLOAD_FIELDS = ("input", "result", "output", "value", "parts")  # the fields of events that hold payloads
RULES = 1  # the number of the newest replay rule; recorded in every ExecutionStarted


class ActivityOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an activity is to be run; travels with the command. Times in milliseconds, 0 = none."""

    retry: str = ""  # RetryPolicy as JSON, see retry.py; empty: one attempt
    queue: str = ""  # empty: the activity's own, else the default queue
    priority: int = 0
    timeout: int = 0  # start to close, each attempt
    schedule_to_start: int = 0
    heartbeat: int = 0
    tags: dict[str, str] = {}


class Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="k", kw_only=True):
    """What all events have."""

    at: int = 0


class ExecutionStarted(Event, tag=1, frozen=True):
    execution: str  # random, minted by whoever started this run
    instance: str
    name: str
    version: str = ""  # empty: the newest the first orchestrator worker knew; see VersionPinned in meta
    input: str | None = None
    parent: str = ""  # parent instance id
    tags: dict[str, str] = {}
    run: int = 0  # how often this instance has continued as new
    reason: str = ""  # of a restart
    rules: int = RULES
    depth: int = 0  # sub-orchestrations between this one and its root


class TaskScheduled(Event, tag=2, frozen=True):
    seq: int
    name: str
    input: str = "[[],{}]"  # JSON [args, kwargs]
    options: ActivityOptions = ActivityOptions()


class TaskCompleted(Event, tag=3, frozen=True):
    seq: int
    result: str | None = None
    attempts: tuple[Attempt, ...] = ()  # the failed attempts before this one, the last ten


class TaskFailed(Event, tag=4, frozen=True):
    seq: int
    failure: FailureDetails
    attempts: tuple[Attempt, ...] = ()


class GroupScheduled(Event, tag=5, frozen=True):
    """`size` plain activities as one Celery chord group; part i has the seq `seq + i`."""

    seq: int
    size: int
    name: str  # the activity all parts call; empty when they differ
    parts: str  # payload: JSON [[name, input, option index], ...]
    options: tuple[ActivityOptions, ...] = (ActivityOptions(),)
    window: int = 0  # most parts in flight at once (ctx.map's max_parallel); 0: the engine's own


class GroupCompleted(Event, tag=6, frozen=True):
    """Every part has ended. The outcomes are read beside the history, see replay.Payloads.group."""

    seq: int
    failed: int = 0


class TimerCreated(Event, tag=7, frozen=True):
    seq: int
    due: int


class TimerFired(Event, tag=8, frozen=True):
    seq: int


class TimerCancelled(Event, tag=9, frozen=True):
    seq: int


class EventRaised(Event, tag=10, frozen=True):
    name: str
    input: str | None = None


class EventSent(Event, tag=11, frozen=True):
    seq: int
    instance: str
    name: str
    input: str | None = None


class SubOrchestrationInstanceCreated(Event, tag=12, frozen=True):
    seq: int
    name: str
    instance: str
    version: str = ""
    input: str | None = None
    parent_close: str = "terminate"  # or "cancel", "abandon": what the parent's end does to the child
    detached: bool = False  # start_orchestration: nobody awaits it
    tags: dict[str, str] = {}


class SubOrchestrationInstanceCompleted(Event, tag=13, frozen=True):
    seq: int
    result: str | None = None


class SubOrchestrationInstanceFailed(Event, tag=14, frozen=True):
    seq: int
    failure: FailureDetails


class ExecutionSuspended(Event, tag=15, frozen=True):
    reason: str = ""


class ExecutionResumed(Event, tag=16, frozen=True):
    reason: str = ""


class ExecutionCompleted(Event, tag=17, frozen=True):
    output: str | None = None


class ExecutionFailed(Event, tag=18, frozen=True):
    failure: FailureDetails


class ExecutionTerminated(Event, tag=19, frozen=True):
    reason: str = ""


class ExecutionCancelled(Event, tag=20, frozen=True):
    reason: str = ""


class ExecutionRewound(Event, tag=21, frozen=True):
    reason: str = ""


class ContinuedAsNew(Event, tag=22, frozen=True):
    input: str | None = None
    preserve_events: bool = True


class CustomStatusSet(Event, tag=23, frozen=True):
    value: str | None = None


class PatchMarker(Event, tag=24, frozen=True):
    change: str


class CancelRequested(Event, tag=25, frozen=True):
    """A client asked for cancellation: OrchestrationCancelledError is raised at the current await."""

    reason: str = ""


class TaskCancelled(Event, tag=26, frozen=True):
    """The author called `cancel()` on an open activity or sub-orchestration task."""

    seq: int


OutsideEvent: TypeAlias = (
    ExecutionStarted | TaskCompleted | TaskFailed | GroupCompleted | TimerFired | EventRaised
    | SubOrchestrationInstanceCompleted | SubOrchestrationInstanceFailed
    | ExecutionSuspended | ExecutionResumed | ExecutionTerminated | ExecutionRewound | CancelRequested
)  # fmt: skip

CommandEvent: TypeAlias = (
    TaskScheduled | GroupScheduled | TimerCreated | TimerCancelled | EventSent
    | SubOrchestrationInstanceCreated | ExecutionCompleted | ExecutionFailed | ExecutionCancelled
    | ContinuedAsNew | CustomStatusSet | PatchMarker | TaskCancelled
)  # fmt: skip

AnyEvent: TypeAlias = OutsideEvent | CommandEvent

OUTSIDE: tuple[type[Event], ...] = OutsideEvent.__args__

_decoder = msgspec.json.Decoder(AnyEvent)
_encoder = msgspec.json.Encoder()


def encode_event(event: Event) -> bytes:
    """The JSON form of one event, as the store keeps it."""
    return _encoder.encode(event)


def decode_event(data: bytes | str) -> AnyEvent:
    """Read one event; raises msgspec.DecodeError (ValidationError for an unknown kind)."""
    return _decoder.decode(data)


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One part of a group: what to call."""

    name: str
    input: str  # JSON [args, kwargs], or a @reference
    options: int = 0  # index into GroupScheduled.options


class PartOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one part of a group ended: `failure` is None for a success."""

    result: str | None = None
    failure: FailureDetails | None = None
    attempts: tuple[Attempt, ...] = ()


def failure_of(failure: FailureDetails, attempts: tuple[Attempt, ...]) -> FailureDetails:
    """The failure as the author sees it: with the attempts that are recorded beside it."""
    return msgspec.structs.replace(failure, attempts=attempts) if attempts else failure
