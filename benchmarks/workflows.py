"""The orchestrations that the workloads run; the orchestrator and the workers import this module."""

from __future__ import annotations

import time
from datetime import timedelta

from celeriac.activities import activity
from celeriac.orchestrations import OrchestrationContext, orchestrator, when_all


@activity
def echo(value: int) -> int:
    """The no-op: it returns what it was given, so that a result can be checked."""
    return value


@activity
def clock(value: int) -> tuple[int, float]:
    """What it was given, and the time at which it runs, as seconds since the epoch."""
    return value, time.time()


@orchestrator
async def bench_sequence(ctx: OrchestrationContext, call: list[int]) -> int:
    """`call` is [steps, first]: so many activities one after the other; the sum of what they returned."""
    steps, first = call
    total = 0
    for step in range(first, first + steps):
        total += await ctx.call_activity(echo, step)
    return total


@orchestrator
async def bench_fan_out(ctx: OrchestrationContext, call: list[int]) -> int:
    """`call` is [width, first]: so many activities at once, then their sum through one more."""
    width, first = call
    values = await when_all([ctx.call_activity(echo, i) for i in range(first, first + width)])
    return await ctx.call_activity(echo, sum(values))


@orchestrator
async def bench_map(ctx: OrchestrationContext, sizes: list[int]) -> int:
    """`sizes` is [items, at once]: the sum over all items."""
    items, at_once = sizes
    return sum(await ctx.map(echo, range(items), max_parallel=at_once))


@orchestrator
async def bench_timer(ctx: OrchestrationContext, call: list[float]) -> int:
    """`call` is [seconds, value]: sleep, then one activity with that value."""
    seconds, value = call
    await ctx.create_timer(timedelta(seconds=seconds))
    return await ctx.call_activity(echo, int(value))


@orchestrator
async def bench_clock(ctx: OrchestrationContext, value: int) -> tuple[int, float]:
    """One activity, which says when it ran."""
    return await ctx.call_activity(clock, value)


@orchestrator
async def bench_event(ctx: OrchestrationContext) -> tuple[int, float]:
    """What the event brings, and when the code after the await ran.

    To read the clock is not repeatable; here it is only the output, which nobody replays.
    """
    ctx.set_custom_status("waiting")
    value = await ctx.wait_for_external_event("go", int)
    return value, time.time()
