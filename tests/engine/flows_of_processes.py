"""The workflows of test_processes.py, imported by the orchestrators and workers it starts."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from celeriac.activities import INJECTED, ActivityContext, activity
from celeriac.orchestrations import (
    OrchestrationContext,
    RetryPolicy,
    orchestrator,
    queue_trigger,
    when_all,
)

NOTES = Path(os.environ.get("FLOWS_NOTES", "."))


@activity
def add(n: int, delay: float = 0.0) -> int:
    time.sleep(delay)
    return n + 1


@activity(retry=RetryPolicy(timedelta(milliseconds=50), 4))
def flaky(key: str) -> str:
    """Fails the first two times for a key."""
    mark = NOTES / f"flaky-{key}"
    mark.write_text(mark.read_text() + "x" if mark.exists() else "x")
    if len(mark.read_text()) < 3:
        raise ConnectionError("not yet")
    return key


@activity(timeout=0.5, retry=RetryPolicy(timedelta(milliseconds=50), 2))
def endless() -> None:
    time.sleep(4)


def work_until_unwanted(context: ActivityContext) -> None:
    """As a considerate activity does; notes when it began and when it was told."""
    (NOTES / f"{context.instance_id}-began").write_text("x")
    while not context.is_cancelled():
        time.sleep(0.05)
    told = NOTES / f"{context.instance_id}-told.new"
    told.write_text(repr(time.time()))
    told.rename(NOTES / f"{context.instance_id}-told")


@activity
def considerate(context: ActivityContext = INJECTED) -> None:
    work_until_unwanted(context)


@activity(heartbeat=1)
def silent(context: ActivityContext = INJECTED) -> None:
    """Never says that it is alive."""
    work_until_unwanted(context)


@activity(heartbeat=1)
def lively(seconds: float, context: ActivityContext = INJECTED) -> str:
    """Runs for longer than its heartbeat interval, and says so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        context.heartbeat()
        time.sleep(0.1)
    return "alive"


@orchestrator
async def steps(ctx: OrchestrationContext, n: int) -> int:
    for _ in range(10):
        n = await ctx.call_activity(add, n, 0.01)
    return n


@orchestrator
async def mixture(ctx: OrchestrationContext, key: str) -> Any:
    await ctx.create_timer(timedelta(milliseconds=100))
    many = await when_all([ctx.call_activity(add, n) for n in range(20)])
    first = await ctx.call_activity(flaky, key)
    child = await ctx.call_sub_orchestrator(steps, 5)
    return [sum(many), first, child]


@queue_trigger(os.environ.get("FLOWS_QUEUE", "flows-orders"))
@orchestrator
async def ordered(ctx: OrchestrationContext, n: int) -> int:
    return await ctx.call_activity(add, n)


@orchestrator
async def fan(ctx: OrchestrationContext, n: int) -> int:
    return sum(await ctx.map(add, range(n)))


@orchestrator
async def stubborn(ctx: OrchestrationContext) -> None:
    """Never gives the loop back, and swallows whatever is raised in it."""
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:  # noqa: BLE001  this is what it is for
            continue


@orchestrator
async def blocking(ctx: OrchestrationContext) -> None:
    """Never gives the loop back, but lets errors pass."""
    while True:
        time.sleep(0.01)


@orchestrator
async def pausing(ctx: OrchestrationContext) -> int:
    """Holds its claim long enough to be killed with it."""
    time.sleep(1)
    return await ctx.call_activity(add, 1)


@orchestrator
async def times_out(ctx: OrchestrationContext) -> None:
    await ctx.call_activity(endless)


@orchestrator
async def waits_for_it(ctx: OrchestrationContext) -> None:
    await ctx.call_activity(considerate)


@orchestrator
async def changes_its_mind(ctx: OrchestrationContext) -> str:
    task = ctx.call_activity(considerate)
    await ctx.wait_for_external_event("enough")
    task.cancel()
    await ctx.wait_for_external_event("end")  # the instance lives on: only the task was cancelled
    return "ended"


@orchestrator
async def goes_silent(ctx: OrchestrationContext) -> None:
    await ctx.call_activity(silent)


@orchestrator
async def stays_lively(ctx: OrchestrationContext) -> str:
    return await ctx.call_activity(lively, 4.0)
