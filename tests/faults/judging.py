"""Was the end right? What a run left behind, held against a run without a fault.

- Every instance ended with the same status, output and failure.
- Every history has at most one outcome for each number, starts with its start, and replays:
  today's code, given the events from outside, issues exactly the recorded commands. While it was
  suspended nothing reached the code, no timer fired early, each failed attempt is told once, in order.
- Every activity ran at least once, and more often than without a fault only when a worker died.
- No residue while the instances are there, and nothing of them after they are purged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.store import Keys, Store
from celeriac.orchestrations import testing
from celeriac.orchestrations.errors import InstanceNotFoundError
from celeriac.orchestrations.history import (
    AnyEvent,
    EventRaised,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    GroupCompleted,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
    TimerCreated,
    TimerFired,
)
from celeriac.orchestrations.registry import Registry

OUTCOMES = (TaskCompleted, TaskFailed, TimerFired, GroupCompleted, SubOrchestrationInstanceCompleted,
            SubOrchestrationInstanceFailed)  # fmt: skip
STAYS = ("never", "64 at most", "24 h")  # life of what a hub without instances may hold, as keys.py says


def ends(client: Client) -> dict[str, tuple[Any, ...]]:
    """How every instance ended, by id."""
    found: dict[str, tuple[Any, ...]] = {}
    for state in client.iterate():
        failure = (state.failure.error_type, state.failure.message) if state.failure is not None else None
        output = state.output if state.status == "Completed" else None
        found[state.id] = (state.name, str(state.status), repr(output), failure)
    return found


def check_history(client: Client, instance: str, registry: Registry) -> list[str]:
    """What is wrong with the history of an instance's present run."""
    recording = client.record(instance)
    events: list[AnyEvent] = list(recording.events)
    problems: list[str] = []
    if not isinstance(events[0], ExecutionStarted):
        problems.append(f"{instance}: the history begins with {events[0]}")
    twice = [n for n, times in Counter(e.seq for e in events if isinstance(e, OUTCOMES)).items() if times > 1]
    if twice:
        problems.append(f"{instance}: two outcomes for {twice}")
    problems += [
        f"{instance}: {each}" for each in [*_while_suspended(events), *_attempts(events), *_early(events)]
    ]
    times = [event.at for event in events]
    if times != sorted(times):
        problems.append(f"{instance}: time runs backwards")
    if isinstance(events[-1], ExecutionTerminated):
        return problems
    state = client.get(instance)
    definition = registry.get(state.name, state.version)
    assert definition is not None
    turn = testing.replay_history(definition, recording)
    if turn.events:
        problems.append(f"{instance}: a replay goes on with {turn.events[:3]}")
    return problems


def _while_suspended(events: list[AnyEvent]) -> Iterator[str]:
    suspended = False
    for event in events:
        if isinstance(event, ExecutionSuspended | ExecutionResumed):
            suspended = isinstance(event, ExecutionSuspended)
        elif suspended and isinstance(event, (*OUTCOMES, EventRaised)):
            yield f"while it was suspended it was told {event}"


def _early(events: list[AnyEvent]) -> Iterator[str]:
    due: dict[int, int] = {}
    for event in events:
        if isinstance(event, TimerCreated):
            due[event.seq] = event.due
        elif isinstance(event, TimerFired) and event.at < due.get(event.seq, event.at + 1):
            yield f"the timer {event.seq} fired early"


def _attempts(events: list[AnyEvent]) -> Iterator[str]:
    for event in events:
        if isinstance(event, TaskCompleted | TaskFailed):
            numbers = [attempt.number for attempt in event.attempts]
            if numbers != sorted(set(numbers)):
                yield f"the failed attempts of step {event.seq} are {numbers}"


def check_all(client: Client, registry: Registry) -> list[str]:
    """What is wrong with any history."""
    return [problem for state in client.iterate() for problem in check_history(client, state.id, registry)]


def check_effects(expected: Counter[Any], actual: Counter[Any], *, may_repeat: bool) -> list[str]:
    """What activities did too little or too often."""
    lost = [
        f"{key} was done {actual[key]} times instead of {n}" for key, n in expected.items() if actual[key] < n
    ]
    more = {key: n for key, n in actual.items() if n > expected[key]}
    if not may_repeat:
        lost += [
            f"{key} was done {n} times instead of {expected[key]}, and no worker died"
            for key, n in more.items()
        ]
    return lost + [f"{key} was never to be done" for key in more if key not in expected]


def purge_all(client: Client) -> None:
    """Remove every instance."""
    for state in list(client.iterate()):
        try:
            client.purge(state.id)
        except InstanceNotFoundError:
            continue  # with its parent


def leftovers(store: Store) -> list[str]:
    """Keys that should be gone when there is no instance."""
    keys: Keys = store.keys
    found: list[str] = []
    for raw in store.client.scan_iter(match="*", count=1000):
        key = raw.decode()
        kind = keys.kind_of(key)
        if kind is None or kind[0].life not in STAYS:
            found.append(f"{key}: left over ({store.client.type(key).decode()})")
    return found


Residue = Callable[[Store], list[str]]
