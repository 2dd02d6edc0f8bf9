"""What a turn is: new history and how the instance stands after it. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .errors import FailureDetails
from .history import AnyEvent, CancelRequested, EventRaised, ExecutionResumed, ExecutionSuspended
from .run import UNCHANGED, Unchanged

__all__ = [
    "UNCHANGED",
    "Cancelled",
    "Carried",
    "Completed",
    "ContinuedAsNewOutcome",
    "Failed",
    "Outcome",
    "Terminated",
    "Turn",
    "Waiting",
]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The orchestrator waits for something."""


@dataclass(frozen=True, slots=True)
class Completed:
    """It returned; `output` is JSON text, None for None."""

    output: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """It raised."""

    failure: FailureDetails


@dataclass(frozen=True, slots=True)
class Cancelled:
    """It let OrchestrationCancelledError pass."""

    reason: str


@dataclass(frozen=True, slots=True)
class ContinuedAsNewOutcome:
    """It ended this run and asked for the next."""

    input: str | None
    preserve_events: bool


@dataclass(frozen=True, slots=True)
class Terminated:
    """Its recorded history ends with a termination. No turn ends so: clients terminate, not orchestrators."""

    reason: str


Outcome: TypeAlias = Waiting | Completed | Failed | Cancelled | ContinuedAsNewOutcome | Terminated
Carried: TypeAlias = EventRaised | CancelRequested | ExecutionSuspended | ExecutionResumed


@dataclass(frozen=True, slots=True)
class Turn:
    """The result of applying an inbox. Its history entries are to be appended as they are.

    A step may be opened and closed in one turn (its number is in `closed` then): it need not be sent at all.
    In the same way a group may be scheduled and dissolved, or scheduled and dropped, in one turn.
    When a run ends, `consumed` is the inbox up to the event that ended it; when it continues as new it is the
    whole inbox, and what belongs to the next run is in `carried`.
    """

    events: list[AnyEvent]  # the applied outside events, each followed by what it led to
    consumed: int  # inbox items that were applied or dropped
    outcome: Outcome
    custom_status: str | Unchanged | None = UNCHANGED  # JSON text, the last one set
    closed: tuple[int, ...] = ()  # numbers of steps the author cancelled
    dissolved: tuple[int, ...] = ()  # groups whose parts report singly from now on
    carried: tuple[Carried, ...] = ()  # for the next run, in order
    suspended: bool | None = None  # None: as before
    dropped: tuple[int, ...] = ()  # maps the author cancelled: no part is emitted or wanted any more
