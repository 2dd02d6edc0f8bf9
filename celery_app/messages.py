"""What an activity message says about itself: the task id, the group it is part of and our two headers.

Knows neither Celery nor Redis, so that both ends of the queue and the orchestrator worker can use it.

- task id: `execution:seq:attempt:instance`, the instance last because it may contain `:`;
- header `celeriac-step`: `execution:seq:attempt`, which the take script reads by string match;
- header `celeriac`: `StepHeader` as JSON text, all that a worker needs to run, time and retry the step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from celeriac.orchestrations.history import ActivityOptions

__all__ = [
    "JOIN_TASK",
    "STEP_HEADER",
    "STEP_META_HEADER",
    "GroupRef",
    "Notes",
    "Step",
    "StepHeader",
    "TaskId",
    "read_header",
]

STEP_HEADER: Final = "celeriac-step"
STEP_META_HEADER: Final = "celeriac"
JOIN_TASK: Final = (
    "celeriac.join"  # named in the chord field of group parts; never sent: the join is a script
)

_TASK_ID: Final = re.compile(r"([0-9a-f]{16}):([0-9]{1,15}):([0-9]{1,9}):(.+)", re.DOTALL)


class TaskId(NamedTuple):
    """One attempt of one activity of one execution."""

    execution: str
    seq: int
    attempt: int
    instance: str

    @classmethod
    def parse(cls, text: str | None) -> TaskId | None:
        """Read a task id; None if it is not one of the engine's."""
        match = _TASK_ID.fullmatch(text) if text else None
        if match is None:
            return None
        execution, seq, attempt, instance = match.groups()
        return cls(execution, int(seq), int(attempt), instance)

    @property
    def step(self) -> str:
        """The text of the `celeriac-step` header."""
        return f"{self.execution}:{self.seq}:{self.attempt}"

    def __str__(self) -> str:
        return f"{self.execution}:{self.seq}:{self.attempt}:{self.instance}"


@dataclass(frozen=True, slots=True)
class GroupRef:
    """Which part of which group a step is. The group's id is `execution:seq` of its first part."""

    id: str
    index: int
    size: int

    @property
    def seq(self) -> int:
        """The seq of the group's first part."""
        return int(self.id.rpartition(":")[2])


class Notes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What earlier tries of a step left for the next one."""

    lost: int = 0  # how many processes died while running it, in a row
    spared: int = 0  # attempts that do not count against the retry policy: their process died
    unknown: int = 0  # since when (milliseconds) no worker that took it knew the activity

    @property
    def kept(self) -> str:
        """The text that the store keeps beside the step for when its message is gone; '' for nothing to keep.

        Without `lost`: that one is part of the step's state.
        """
        return f"{self.spared} {self.unknown}" if self.spared or self.unknown else ""

    @classmethod
    def of_kept(cls, text: str, lost: int) -> Notes:
        """What `kept` gave, with the number of processes that died in a row."""
        spared, unknown = text.split() if text else (0, 0)
        return cls(lost, int(spared), int(unknown))


class StepHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker knows of a step beside its call. Times in milliseconds."""

    options: ActivityOptions = ActivityOptions()
    first_at: int = 0  # when the step was first scheduled; retry_timeout counts from here
    size: int = 0  # of the group, for a part of one
    notes: Notes = Notes()


_HEADER: Final = msgspec.json.Decoder(StepHeader)


def read_header(text: str | None) -> StepHeader:
    """The `celeriac` header; raises msgspec.DecodeError for one that nobody of ours wrote."""
    return _HEADER.decode(text) if text else StepHeader()


class Step(NamedTuple):
    """One attempt of an activity, as a worker (or whoever finds it lost) knows it."""

    task: TaskId
    name: str
    call: str  # JSON [args, kwargs], or a @reference
    header: StepHeader
    group: GroupRef | None = None
