"""The workflows of the security tests, imported by the orchestrators and workers they start."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from celeriac.activities import INJECTED, ActivityContext, activity
from celeriac.orchestrations import OrchestrationContext, RetryPolicy, orchestrator, queue_trigger

NOTES = Path(os.environ.get("FLOWS_NOTES", "."))
QUEUE = os.environ.get("FLOWS_QUEUE", "orders")


@activity
def note(line: str) -> str:
    """An effect that can be seen from outside."""
    with open(NOTES / "effects", "a") as file:
        file.write(line + "\n")
    return line


@activity
def double(n: int) -> int:
    return 2 * n


@activity
def large(text: str) -> str:
    return text * 20_000


@activity(retry=RetryPolicy(timedelta(milliseconds=50), 3), timeout=30, heartbeat=10)
def shaky(key: str, context: ActivityContext = INJECTED) -> str:
    """Fails once for a key."""
    context.heartbeat()
    mark = NOTES / f"shaky-{key}"
    if not mark.exists():
        mark.write_text("x")
        raise ConnectionError("not yet")
    return key


@activity
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@orchestrator
async def child(ctx: OrchestrationContext, n: int) -> int:
    return await ctx.call_activity(double, n)


@orchestrator
async def mixture(ctx: OrchestrationContext, key: str) -> list[Any]:
    """Everything that makes another kind of call to Redis."""
    ctx.set_custom_status({"at": "start"})
    total = sum(await ctx.map(double, range(20)))
    steady = await ctx.call_activity(shaky, key)
    await ctx.create_timer(timedelta(seconds=0.1))
    said = await ctx.wait_for_external_event("go")
    size = len(await ctx.call_activity(large, "0123456789"))
    below = await ctx.call_sub_orchestrator(child, 21)
    return [total, steady, said, size, below]


@queue_trigger(QUEUE)
@orchestrator
async def ordered(ctx: OrchestrationContext, n: int) -> int:
    return await ctx.call_activity(double, n)


@orchestrator
async def waiting(ctx: OrchestrationContext) -> Any:
    """Waits until somebody says so."""
    return await ctx.wait_for_external_event("go")


@orchestrator
async def noting(ctx: OrchestrationContext, line: str) -> str:
    return await ctx.call_activity(note, line)
