"""A small world around the replay core: it answers commands, in an order that a seed decides.

`World.run` drives a program live, one event at a time, and records what happened; the laws then ask
whether every other way of getting there gives the same history. Answers are functions of the command
alone, so that the order is the only thing that varies.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import FailureDetails
from celeriac.orchestrations.history import (
    OUTSIDE,
    AnyEvent,
    CancelRequested,
    EventRaised,
    ExecutionStarted,
    GroupCompleted,
    GroupScheduled,
    PartOutcome,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from celeriac.orchestrations.registry import OrchestratorDefinition, define
from celeriac.orchestrations.replay import Execution, Turn, replay
from celeriac.orchestrations.turn import Completed, ContinuedAsNewOutcome, Failed, Outcome

START = 1_700_000_000_000
Answer = Callable[..., Any]


class Boom(Exception):
    """What activities of the tests raise."""


@dataclass
class Program:
    """An orchestrator with all that may happen to it."""

    definition: OrchestratorDefinition
    input: Any = None
    activities: dict[str, Answer] = field(default_factory=dict)
    children: dict[str, Answer] = field(default_factory=dict)
    events: tuple[tuple[str, Any], ...] = ()  # raised in this order, at times the seed decides
    cancel: bool = False
    expect: Callable[[Outcome], bool] | None = None
    runs: int = 1  # how many runs continue-as-new makes

    @property
    def name(self) -> str:
        return self.definition.name


@dataclass
class Recording:
    """One run: what came from outside, in order, and the history that it led to."""

    program: Program
    payloads: Outcomes
    history: list[AnyEvent]
    outcome: Outcome
    last: Turn

    @property
    def outside(self) -> list[AnyEvent]:
        return [event for event in self.history if isinstance(event, OUTSIDE)]

    @property
    def boundaries(self) -> list[int]:
        """Where a step ends."""
        return [i for i, event in enumerate(self.history) if isinstance(event, OUTSIDE)] + [len(self.history)]

    def replay(self, upto: int, inbox: Sequence[AnyEvent]) -> Turn:
        return replay(self.program.definition, self.history[:upto], inbox, self.payloads)


class Outcomes:
    """The payloads of one run."""

    def __init__(self) -> None:
        self.groups: dict[int, list[PartOutcome]] = {}

    def text(self, ref: str, /) -> str:
        return ref

    def group(self, seq: int, /) -> Sequence[PartOutcome]:
        return self.groups[seq]


def failure_of(error: Exception) -> FailureDetails:
    return FailureDetails(
        error_type=f"{type(error).__module__}.{type(error).__qualname__}", message=str(error)
    )


def call(answers: dict[str, Answer], name: str, args: Sequence[Any]) -> PartOutcome:
    answer = answers.get(name, lambda *given: list(given))
    try:
        return PartOutcome(result=codec.encode(answer(*args)))
    except Exception as error:  # noqa: BLE001 - whatever an activity raises is its failure
        return PartOutcome(failure=failure_of(error))


class World:
    """Runs a program to its end, or until nothing more can happen."""

    def __init__(self, program: Program, seed: int) -> None:
        self.program, self.random = program, random.Random(seed)
        self.now = START
        self.open: dict[tuple[str, int], Any] = {}  # kind and number -> command
        self.events = list(program.events)
        self.cancel = program.cancel

    def run(self) -> list[Recording]:
        recordings = []
        number, text, carried = 0, codec.encode(self.program.input), ()
        while True:
            started = ExecutionStarted(
                at=self.now,
                execution=f"e{number}",
                instance="inst",
                name=self.program.name,
                input=text,
                run=number,
            )
            recording = self._run([started, *carried])
            recordings.append(recording)
            if not isinstance(recording.outcome, ContinuedAsNewOutcome):
                return recordings
            number, text, carried = number + 1, recording.outcome.input, recording.last.carried

    def _run(self, first: list[AnyEvent]) -> Recording:
        self.open = {}
        self.outcomes = Outcomes()
        execution = Execution(self.program.definition, self.outcomes)
        history: list[AnyEvent] = []
        inbox = first
        while True:
            turn = execution.advance(inbox)
            history += turn.events
            self._note(turn)
            if execution.ended or not (choices := self._choices()):
                break
            inbox = [self.random.choice(choices)()]
        execution.close()
        assert execution.history_length == len(history)
        return Recording(self.program, self.outcomes, history, execution.outcome, turn)

    def _note(self, turn: Turn) -> None:
        for event in turn.events:
            match event:
                case TaskScheduled(seq=seq):
                    self.open["activity", seq] = event
                case TimerCreated(seq=seq):
                    self.open["timer", seq] = event
                case SubOrchestrationInstanceCreated(seq=seq, detached=False):
                    self.open["child", seq] = event
                case GroupScheduled(seq=seq):
                    self.open["group", seq] = event
                case _:
                    pass
        for seq in turn.dissolved:
            self._dissolve(self.open.pop(("group", seq)))
        for seq in turn.dropped:
            self.open.pop(("group", seq), None)
        for seq in turn.closed:
            for kind in ("activity", "timer", "child"):
                self.open.pop((kind, seq), None)

    def _dissolve(self, group: GroupScheduled) -> None:
        for index, (name, text, option) in enumerate(msgspec.json.decode(group.parts)):
            self.open["activity", group.seq + index] = TaskScheduled(
                seq=group.seq + index, name=name, input=text, options=group.options[option]
            )

    def _choices(self) -> list[Callable[[], AnyEvent]]:
        """What may happen next; of the timers only the one that is due first."""
        keys = [key for key in self.open if key[0] != "timer"]
        timers = [key for key in self.open if key[0] == "timer"]
        if timers:
            keys.append(min(timers, key=lambda key: (self.open[key].due, key)))
        choices: list[Callable[[], AnyEvent]] = [lambda key=key: self._happen(*key) for key in keys]
        if self.events:
            choices.append(self._raise_event)
        if self.cancel:
            choices.append(self._cancel)
        return choices

    def _at(self, least: int = 0) -> int:
        # Sometimes earlier than the event before it, as a late insertion is: the core straightens that.
        self.now = max(self.now + self.random.choice((0, 1, 7)), least)
        return self.now - self.random.choice((0, 0, 3)) if not least else self.now

    def _raise_event(self) -> AnyEvent:
        name, value = self.events.pop(0)
        return EventRaised(at=self._at(), name=name, input=codec.encode(value))

    def _cancel(self) -> AnyEvent:
        self.cancel = False
        return CancelRequested(at=self._at(), reason="enough")

    def _happen(self, kind: str, seq: int) -> AnyEvent:
        command = self.open.pop((kind, seq))
        if kind == "timer":
            return TimerFired(at=self._at(command.due), seq=seq)
        if kind == "group":
            parts = msgspec.json.decode(command.parts)
            outcomes = [self._activity(name, text) for name, text, _ in parts]
            self.outcomes.groups[seq] = outcomes
            failed = sum(outcome.failure is not None for outcome in outcomes)
            return GroupCompleted(at=self._at(), seq=seq, failed=failed)
        if kind == "child":
            return self._child(seq, command)
        outcome = self._activity(command.name, command.input)
        if outcome.failure is not None:
            return TaskFailed(at=self._at(), seq=seq, failure=outcome.failure)
        return TaskCompleted(at=self._at(), seq=seq, result=outcome.result)

    def _activity(self, name: str, text: str) -> PartOutcome:
        return call(self.program.activities, name, msgspec.json.decode(text)[0])

    def _child(self, seq: int, command: SubOrchestrationInstanceCreated) -> AnyEvent:
        outcome = call(self.program.children, command.name, (command.instance, codec.decode(command.input)))
        if outcome.failure is not None:
            return SubOrchestrationInstanceFailed(at=self._at(), seq=seq, failure=outcome.failure)
        return SubOrchestrationInstanceCompleted(at=self._at(), seq=seq, result=outcome.result)


class Live:
    """One execution, fed by hand."""

    def __init__(self, function: Any, input: Any = None, **started: Any) -> None:
        self.definition = define(function)
        self.payloads = Outcomes()
        self.execution = Execution(self.definition, self.payloads)
        self.history: list[AnyEvent] = []
        text = None if input is None else codec.encode(input)
        self.first = ExecutionStarted(
            at=START, execution="e0", instance="inst", name=self.definition.name, input=text, **started
        )

    def start(self) -> Turn:
        return self.apply(self.first)

    def apply(self, *events: AnyEvent) -> Turn:
        turn = self.execution.advance(events)
        self.history += turn.events
        return turn

    def group(self, seq: int, *results: Any) -> Turn:
        """Finish a group; an exception among the results is a failure."""
        self.payloads.groups[seq] = [
            PartOutcome(failure=failure_of(r))
            if isinstance(r, Exception)
            else PartOutcome(result=codec.encode(r))
            for r in results
        ]
        failed = sum(isinstance(result, Exception) for result in results)
        return self.apply(GroupCompleted(seq=seq, failed=failed))

    def done(self, seq: int, result: Any = None) -> Turn:
        return self.apply(TaskCompleted(seq=seq, result=codec.encode(result)))

    def raised(self, name: str, value: Any = None) -> Turn:
        return self.apply(EventRaised(name=name, input=codec.encode(value)))

    def fired(self, seq: int) -> Turn:
        return self.apply(TimerFired(seq=seq))

    @property
    def output(self) -> Any:
        """The output; the test fails if there is none."""
        outcome = self.execution.outcome
        assert isinstance(outcome, Completed), outcome
        return codec.decode(outcome.output)

    @property
    def failure(self) -> FailureDetails:
        outcome = self.execution.outcome
        assert isinstance(outcome, Failed), outcome
        return outcome.failure


def kinds(turn: Turn) -> list[str]:
    """The names of the kinds of its events."""
    return [type(event).__name__ for event in turn.events]
