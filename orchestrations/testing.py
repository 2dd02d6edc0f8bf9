"""Run orchestrators with their activities in process: no Redis, no Celery, on virtual time.

    result = testing.run(approve_expense, Expense(...), events=[
        testing.event("Approval", {"approved": True}, after=timedelta(days=29))])
    assert result.status == "Completed"
    assert result.elapsed == timedelta(days=29)

Activities really run, unless `activities={"name": function}` puts something else in their place; retries
follow their policies in virtual time; children run too. At the end every history is replayed, so code that
is not deterministic fails its own test. `replay_history` does the same with histories recorded elsewhere:
keep some beside your tests, and a change that would break running instances breaks the build instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec

from . import codec
from ._simulated import ActivityCall, Instance, check_replays
from ._simulator import Simulator
from .errors import AuthoringError, FailureDetails
from .history import (
    AnyEvent,
    CancelRequested,
    EventRaised,
    ExecutionResumed,
    ExecutionSuspended,
    ExecutionTerminated,
    PartOutcome,
)
from .recording import Recording
from .registry import REGISTRY, Orchestrator, OrchestratorDefinition, Registry
from .replay import Execution
from .turn import Turn

__all__ = [
    "ActivityCall",
    "Recording",
    "Scheduled",
    "TestResult",
    "cancel",
    "event",
    "replay_history",
    "resume",
    "run",
    "suspend",
    "terminate",
]

START = datetime(2024, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_NOW = timedelta()


@dataclass(frozen=True)
class Scheduled:
    """Something that will happen to an instance, at a virtual time counted from the start."""

    after: timedelta
    event: AnyEvent
    to: str = ""  # the instance under test, unless another id is named


def event(name: str, data: Any = None, *, after: timedelta = _NOW, to: str = "") -> Scheduled:
    """An external event, raised at this time."""
    return Scheduled(after, EventRaised(name=name, input=None if data is None else codec.encode(data)), to)


def cancel(reason: str = "", *, after: timedelta = _NOW, to: str = "") -> Scheduled:
    """A client cancels: OrchestrationCancelledError at the await."""
    return Scheduled(after, CancelRequested(reason=reason), to)


def terminate(reason: str = "", *, after: timedelta = _NOW, to: str = "") -> Scheduled:
    """A client terminates: no more of the orchestrator's code runs."""
    return Scheduled(after, ExecutionTerminated(reason=reason), to)


def suspend(reason: str = "", *, after: timedelta = _NOW, to: str = "") -> Scheduled:
    """A client suspends: what comes in waits."""
    return Scheduled(after, ExecutionSuspended(reason=reason), to)


def resume(reason: str = "", *, after: timedelta = _NOW, to: str = "") -> Scheduled:
    """A client resumes."""
    return Scheduled(after, ExecutionResumed(reason=reason), to)


@dataclass(frozen=True)
class TestResult:
    """How an instance stood when nothing more could happen."""

    __test__: ClassVar[bool] = False  # for pytest: this is no test case

    instance_id: str
    status: str  # Completed, Failed, Cancelled, Terminated; Running or Suspended when it waits for ever
    output: Any
    failure: FailureDetails | None
    custom_status: Any
    elapsed: timedelta  # virtual, from start to end
    runs: tuple[tuple[AnyEvent, ...], ...]  # a history for each run; more than one after continue-as-new
    calls: tuple[ActivityCall, ...]  # every attempt of every activity, in all instances
    instances: Mapping[str, TestResult]  # children, and whatever was started on the way
    _outcomes: Mapping[int, list[PartOutcome]]

    @property
    def history(self) -> tuple[AnyEvent, ...]:
        """The history of the last run."""
        return self.runs[-1]

    def attempts(self, activity: str) -> list[ActivityCall]:
        """The attempts of one activity, in order."""
        return [call for call in self.calls if call.name == activity]

    def to_json(self) -> str:
        """The history of the last run as a recording that `replay_history` reads."""
        return Recording(list(self.history), {}, dict(self._outcomes)).to_json()


def run(
    orchestrator: Orchestrator[Any, Any] | OrchestratorDefinition | str,
    input: Any = None,
    *,
    activities: Mapping[str, Callable[..., Any]] | None = None,
    events: Iterable[Scheduled] = (),
    durations: Mapping[str, timedelta] | None = None,
    instance_id: str = "test",
    tags: Mapping[str, str] | None = None,
    start_at: datetime = START,
    until: timedelta | None = None,
    registry: Registry | None = None,
    max_events: int = 100_000,
    check_replay: bool = True,
) -> TestResult:
    """Run one instance until it ends, waits for what never comes, or `until` has passed.

    `activities` replaces activities by name. `durations` says how long activities take in virtual time, by
    name; nothing unless said. `events` are made by `event`, `cancel`, `suspend`, `resume` and `terminate`. A
    problem of the code itself (an orchestrator that is not deterministic) is raised.
    """
    known = REGISTRY if registry is None else registry
    definition = _definition(orchestrator, known)
    if start_at.tzinfo is None:
        raise ValueError(
            f"start_at must be aware, such as datetime(2024, 1, 1, tzinfo=UTC); got {start_at!r}"
        )
    start = (start_at - datetime.fromtimestamp(0, UTC)) // _MS
    simulator = Simulator(known, activities or {}, durations or {}, start, max_events)
    for each in events:
        simulator.at(start + each.after // _MS, _delivery(simulator, each, instance_id))
    text = None if input is None else codec.encode(input)
    simulator.start(instance_id, definition, text, tags=tags)
    try:
        simulator.run(None if until is None else start + until // _MS)
        for instance in simulator.instances.values() if check_replay else ():
            check_replays(instance)
    finally:
        simulator.close()
    return _result(simulator, instance_id)


def _delivery(simulator: Simulator, scheduled: Scheduled, instance_id: str) -> Callable[[], None]:
    def deliver() -> None:
        target = simulator.instances.get(scheduled.to or instance_id)
        if target is not None:
            simulator.deliver(target, msgspec.structs.replace(scheduled.event, at=simulator.now))

    return deliver


def _definition(orchestrator: Any, registry: Registry) -> OrchestratorDefinition:
    if isinstance(orchestrator, Orchestrator):
        return orchestrator.definition
    if isinstance(orchestrator, OrchestratorDefinition):
        return orchestrator
    found = registry.get(orchestrator) if isinstance(orchestrator, str) else None
    if found is None:
        raise AuthoringError(f"{orchestrator!r} is no orchestrator; decorate the function with @orchestrator")
    return found


def _result(simulator: Simulator, instance_id: str) -> TestResult:
    calls = tuple(simulator.workshop.calls)
    others: dict[str, TestResult] = {}

    def one(instance: Instance) -> TestResult:
        type_ = instance.definition.result_type
        return TestResult(
            instance_id=instance.id,
            status=instance.status,
            output=codec.decode(instance.output, type_),
            failure=instance.failure,
            custom_status=codec.decode(instance.custom_status),
            elapsed=((instance.ended_at if instance.ended else simulator.now) - instance.created) * _MS,
            runs=tuple(map(tuple, instance.runs)),
            calls=calls,
            instances=others,
            _outcomes=instance.outcomes[-1],
        )

    others.update((id, one(each)) for id, each in simulator.instances.items() if id != instance_id)
    return one(simulator.instances[instance_id])


def replay_history(
    orchestrator: Orchestrator[Any, Any] | OrchestratorDefinition | str,
    history: str | bytes | Recording | Sequence[AnyEvent],
    *,
    registry: Registry | None = None,
) -> Turn:
    """Replay a recorded history with today's code; raises NonDeterminismError where the code goes another
    way.

    `history` is a recording or its JSON, or a list of events or its JSON; see recording.py.
    """
    definition = _definition(orchestrator, REGISTRY if registry is None else registry)
    if isinstance(history, str | bytes):
        history = Recording.from_json(history)
    recording = history if isinstance(history, Recording) else Recording(list(history))
    execution = Execution(definition, recording)
    try:
        execution.replay(recording.events)
        return execution.advance([])
    finally:
        execution.close()
