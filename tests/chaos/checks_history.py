"""No step has two outcomes, every history is one that today's code repeats, and every outcome was really
produced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import CeleriacError
from celeriac.orchestrations.history import (
    AnyEvent,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionStarted,
    ExecutionTerminated,
    GroupCompleted,
    GroupScheduled,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCancelled,
    TimerCreated,
    TimerFired,
)
from celeriac.orchestrations.registry import REGISTRY
from celeriac.orchestrations.replay import Execution

from . import workflows as workflows  # enters the orchestrators into the registry
from .checks_work import FINAL, Finding
from .evidence import DumpedPayloads, Evidence

OPENED = (TaskScheduled, GroupScheduled, TimerCreated, SubOrchestrationInstanceCreated)
CLOSED = (
    TaskCompleted,
    TaskFailed,
    TaskCancelled,
    GroupCompleted,
    TimerFired,
    TimerCancelled,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
)
ENDS = {
    ExecutionCompleted: "Completed",
    ExecutionFailed: "Failed",
    ExecutionTerminated: "Terminated",
    ExecutionCancelled: "Cancelled",
}


def check_histories(evidence: Evidence) -> Iterator[Finding]:
    """Every history of an instance that has ended."""
    for id, record in evidence.records.items():
        if record["status"] not in FINAL:
            continue
        events = evidence.history(id)
        payloads = evidence.payloads(record["execution"], events)
        yield from _check_shape(id, record, events)
        yield from _check_outcomes(evidence, id, record["execution"], events, payloads)
        yield from _check_replay(id, record, events, payloads)


def _check_shape(id: str, record: dict[str, str], events: list[AnyEvent]) -> Iterator[Finding]:
    if not events or not isinstance(events[0], ExecutionStarted):
        yield Finding("wrong", id, "its history does not begin with its start")
        return
    if events[0].execution != record["execution"]:
        yield Finding("wrong", id, "its history is that of another run")
    if any(later.at < earlier.at for earlier, later in pairwise(events)):
        yield Finding("wrong", id, "time goes backwards in its history")
    opened = Counter(event.seq for event in events if isinstance(event, OPENED))
    closed = Counter(event.seq for event in events if isinstance(event, CLOSED))
    for seq, times in opened.items():
        if times > 1:
            yield Finding("two outcomes", id, f"step {seq} was scheduled {times} times")
    for seq, times in closed.items():
        if times > 1:
            yield Finding("two outcomes", id, f"step {seq} has {times} outcomes")
        if seq not in opened:
            yield Finding("two outcomes", id, f"step {seq} has an outcome and was never scheduled")
    ends = [event for event in events if type(event) in ENDS]
    if len(ends) != 1 or ends[0] is not events[-1]:
        yield Finding("two outcomes", id, f"its history has {len(ends)} ends, or goes on after its end")
        return
    if ENDS[type(ends[0])] != record["status"]:
        yield Finding("wrong", id, f"its history says {ENDS[type(ends[0])]}, its record {record['status']}")
    if isinstance(ends[0], ExecutionCompleted) and ends[0].output != record.get("output"):
        yield Finding("wrong", id, "its history and its record hold different outputs")


def _check_outcomes(
    evidence: Evidence, id: str, execution: str, events: list[AnyEvent], payloads: DumpedPayloads
) -> Iterator[Finding]:
    """Each result in the history is one that a run of that very step gave."""
    outcomes: list[tuple[int, Any, bool]] = []
    try:
        for event in events:
            if isinstance(event, TaskCompleted):
                outcomes.append((event.seq, _value(payloads, event.result), True))
            elif isinstance(event, TaskFailed):
                outcomes.append((event.seq, None, False))
            elif isinstance(event, GroupCompleted):
                parts = payloads.group(event.seq)
                outcomes += [
                    (event.seq + n, _value(payloads, part.result), part.failure is None)
                    for n, part in enumerate(parts)
                ]
    except KeyError as error:
        yield Finding("lost", id, f"payload {error} is gone")
    for seq, value, success in outcomes:
        runs = evidence.runs.get((execution, seq), [])
        if success and not any(run["ended"] == "done" and run["value"] == value for run in runs):
            yield Finding("wrong", id, f"step {seq} has the result {value!r:.80}, which no run of it gave")
        if not success and not any(run["ended"] == "failed" for run in runs):
            yield Finding("wrong", id, f"step {seq} failed, though no run of it did")


def _value(payloads: DumpedPayloads, text: str | None) -> Any:
    value = codec.decode(None if text is None else payloads.text(text))
    return len(value) if isinstance(value, str) else value  # as the effect log has it


def _check_replay(
    id: str, record: dict[str, str], events: list[AnyEvent], payloads: DumpedPayloads
) -> Iterator[Finding]:
    definition = REGISTRY.get(record["name"], record["version"])
    if definition is None:
        yield Finding("wrong", id, f"nobody knows its orchestrator {record['name']}")
        return
    if [type(event) for event in events] == [ExecutionStarted, ExecutionTerminated]:
        return  # ended before its first turn: no code has run, so there is none to repeat
    execution = Execution(definition, payloads)
    try:
        execution.replay(events)
        if not execution.ended:
            yield Finding("replay", id, "the pure core does not end where its history does")
    except (CeleriacError, KeyError, RuntimeError) as error:
        yield Finding("replay", id, f"{type(error).__name__}: {error}")
    finally:
        execution.close()
