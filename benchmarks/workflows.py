"""The orchestrations that the workloads run; the orchestrator and the workers import this module."""

from __future__ import annotations

from celeriac.activities import activity
from celeriac.orchestrations import OrchestrationContext, orchestrator, when_all


@activity
def echo(value: int) -> int:
    """The no-op: it returns what it was given, so that a result can be checked."""
    return value


@orchestrator
async def bench_sequence(ctx: OrchestrationContext, steps: int) -> int:
    """`steps` activities one after the other; the sum of what they returned."""
    total = 0
    for step in range(steps):
        total += await ctx.call_activity(echo, step)
    return total


@orchestrator
async def bench_fan_out(ctx: OrchestrationContext, width: int) -> int:
    """`width` activities at once, then their sum through one more activity."""
    values = await when_all([ctx.call_activity(echo, i) for i in range(width)])
    return await ctx.call_activity(echo, sum(values))
