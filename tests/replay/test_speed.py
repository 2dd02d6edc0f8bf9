"""Replay is fast, and its time grows no faster than the history.

Bounds are generous, for machines differ; only this process' own time counts, for others may run beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from world import START, Outcomes

from celeriac.orchestrations import OrchestrationContext, as_completed, when_all, when_any
from celeriac.orchestrations.history import (
    AnyEvent,
    ExecutionCompleted,
    ExecutionStarted,
    TaskCompleted,
    TaskScheduled,
    TimerFired,
)
from celeriac.orchestrations.registry import define
from celeriac.orchestrations.replay import Execution

Ctx = OrchestrationContext


async def sequence(ctx: Ctx, count: int) -> None:
    for n in range(count):
        await ctx.call_activity("a", n)


def started(name: str, count: int) -> ExecutionStarted:
    return ExecutionStarted(at=START, execution="e", instance="i", name=name, input=str(count))


def test_a_sequential_history_of_10_000_events_replays_at_20_000_events_a_second() -> None:
    history: list[AnyEvent] = [started("sequence", 5000)]
    for n in range(5000):
        history.append(TaskScheduled(at=START, seq=n, name="a", input=f"[[{n}],{{}}]"))
        history.append(TaskCompleted(at=START, seq=n, result=str(n)))
    history.append(ExecutionCompleted(at=START))
    best = 1e9
    for _ in range(3):
        execution = Execution(define(sequence), Outcomes())
        begin = time.process_time()
        execution.replay(history)
        best = min(best, time.process_time() - begin)
        assert execution.ended
    assert len(history) / best > 20_000


async def waits_for_all(ctx: Ctx, count: int) -> None:
    keep = ctx.call_activity("keeps it from being a group")
    tasks = [ctx.call_activity("a", n) for n in range(count)]
    await when_all([*tasks, ctx.create_timer(ctx.current_utc_datetime)])
    keep.cancel()


async def as_they_come(ctx: Ctx, count: int) -> None:
    ctx.call_activity("first")
    async for _ in as_completed([ctx.call_activity("a", n) for n in range(count)]):
        pass


async def all_places_at_once(ctx: Ctx, count: int) -> None:
    ctx.call_activity("first")
    places = list(as_completed([ctx.call_activity("a", n) for n in range(count)]))
    await when_all(places)


async def races_with_one_that_lasts(ctx: Ctx, count: int) -> None:
    lasting = ctx.call_activity("first")
    for n in range(count):
        await when_any([lasting, ctx.wait_for_external_event("x"), ctx.call_activity("a", n)])


def seconds(function: Callable[..., Any], count: int) -> float:
    execution = Execution(define(function), Outcomes())
    execution.advance([started(function.__name__, count)])
    events = [TaskCompleted(seq=n + 1) for n in range(count)]
    begin = time.process_time()
    for event in events:
        execution.advance([event])
    execution.advance([TimerFired(seq=count + 1)])
    taken = time.process_time() - begin
    assert execution.ended
    return taken


@pytest.mark.parametrize(
    "function", [waits_for_all, as_they_come, all_places_at_once, races_with_one_that_lasts]
)
def test_time_per_event_does_not_grow(function: Callable[..., Any]) -> None:
    few, many = 1000, 16_000
    small = min(seconds(function, few) for _ in range(3))
    assert seconds(function, many) < 6 * (many / few) * small + 0.05
