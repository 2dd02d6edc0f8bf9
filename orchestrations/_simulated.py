"""What the simulator of `testing` keeps: instances, the calls they have open, and recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from .errors import Attempt, FailureDetails
from .history import ActivityOptions, AnyEvent, PartOutcome
from .recording import Recording
from .registry import OrchestratorDefinition
from .replay import Execution


@dataclass
class Group:
    """A fan-out under way."""

    parts: list[Step]
    outcomes: list[PartOutcome | None]
    waiting: list[int]
    done: int = 0


@dataclass(eq=False)
class Step:
    """One call of an activity under way."""

    seq: int
    name: str
    input: str
    options: ActivityOptions
    first_at: int
    attempt: int = 1
    failed: list[Attempt] = field(default_factory=list)
    group: int | None = None  # seq of its group
    index: int = 0


@dataclass(frozen=True)
class ActivityCall:
    """One attempt of an activity that was made."""

    name: str
    instance_id: str
    attempt: int
    at: timedelta  # since the start of the test
    error: FailureDetails | None = None


class Instance:
    """One instance; also the payloads of its present run, of which all texts are in the history itself."""

    def __init__(
        self, id: str, definition: OrchestratorDefinition, parent: tuple[Instance, int, str] | None
    ) -> None:
        self.id, self.definition, self.parent = id, definition, parent
        self.status = "Pending"
        self.inbox: list[AnyEvent] = []
        self.suspended = False
        self.custom_status: str | None = None
        self.output: str | None = None
        self.failure: FailureDetails | None = None
        self.created = self.ended_at = 0
        self.runs: list[list[AnyEvent]] = []
        self.outcomes: list[dict[int, list[PartOutcome]]] = []  # of finished groups, for each run

    def begin(self, execution: str) -> None:
        """Forget the run before, and make a new one ready."""
        self.live = Execution(self.definition, self)
        self.execution = execution
        self.steps: dict[int, Step] = {}
        self.timers: set[int] = set()
        self.children: dict[int, tuple[Instance, str]] = {}
        self.groups: dict[int, Group] = {}
        self.runs.append([])
        self.outcomes.append({})

    @property
    def history(self) -> list[AnyEvent]:
        """The events of the present run."""
        return self.runs[-1]

    @property
    def ended(self) -> bool:
        """True once the instance is over."""
        return self.status in ("Completed", "Failed", "Cancelled", "Terminated")

    def text(self, ref: str, /) -> str:
        """Nothing is kept aside here."""
        return ref

    def group(self, seq: int, /) -> Sequence[PartOutcome]:
        """How the parts of a finished group ended."""
        return self.outcomes[-1][seq]


def check_replays(instance: Instance) -> None:
    """Replay every run of an instance from its history; raises NonDeterminismError."""

    for history, outcomes in zip(instance.runs, instance.outcomes, strict=True):
        execution = Execution(instance.definition, Recording(history, {}, outcomes))
        try:
            execution.replay(history)
        finally:
            execution.close()
