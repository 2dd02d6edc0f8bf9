"""The workflows of these tests, imported by the orchestrators and workers that they start."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celeriac.activities import activity
from celeriac.orchestrations import OrchestrationContext, orchestrator, queue_trigger

EFFECTS = Path(os.environ.get("TROUBLE_EFFECTS", "effects"))


@activity
def effect(key: str, seconds: float = 0.0) -> str:
    """Leaves a line that no rollback of Redis takes back."""
    with EFFECTS.open("a") as file:
        file.write(f"{key}\n")
    time.sleep(seconds)
    return key


@orchestrator
async def steps(ctx: OrchestrationContext, n: int) -> list[str]:
    return [await ctx.call_activity(effect, f"{ctx.instance_id}.{k}") for k in range(n)]


@orchestrator
async def slow_steps(ctx: OrchestrationContext, n: int) -> list[str]:
    return [await ctx.call_activity(effect, f"{ctx.instance_id}.{k}", 0.5) for k in range(n)]


@orchestrator
async def long_step(ctx: OrchestrationContext, seconds: float) -> str:
    return await ctx.call_activity(effect, f"{ctx.instance_id}.0", seconds)


@orchestrator
async def collects(ctx: OrchestrationContext) -> list[int]:
    got: list[int] = []
    while (number := await ctx.wait_for_external_event("number", int)) >= 0:
        got.append(number)
    return got


@queue_trigger(os.environ.get("TROUBLE_QUEUE", "trouble-orders"))
@orchestrator
async def ordered(ctx: OrchestrationContext, n: int) -> str:
    return await ctx.call_activity(effect, f"order-{n}")
