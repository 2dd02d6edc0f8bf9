"""The test kit's children: they share their parent's fate, and are tried again when they ask to be."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from celeriac.orchestrations import (
    OrchestrationCancelledError,
    OrchestrationContext,
    RetryAfter,
    RetryPolicy,
    orchestrator,
    testing,
)
from celeriac.orchestrations.registry import Registry

REGISTRY = Registry()
KIT: dict[str, Any] = {"registry": REGISTRY, "activities": {"work": lambda n: n}}
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@orchestrator(registry=REGISTRY)
async def undoes(ctx: OrchestrationContext) -> None:
    try:
        await ctx.create_timer(DAY)
    except OrchestrationCancelledError:
        await ctx.call_activity("work", 1)
        raise


@orchestrator(registry=REGISTRY)
async def holds(ctx: OrchestrationContext, how: tuple[Any, str]) -> None:
    ctx.call_sub_orchestrator(undoes, parent_close=how[0], instance_id="child")
    await ctx.create_timer(HOUR)
    if how[1] == "fail":
        raise ValueError


@pytest.mark.parametrize(
    ("parent_close", "end", "status", "undone"),
    [
        ("terminate", testing.cancel(), "Cancelled", 1),
        ("terminate", testing.terminate(), "Terminated", 0),
        ("terminate", "fail", "Terminated", 0),
        ("terminate", "complete", "Terminated", 0),
        ("cancel", testing.terminate(), "Cancelled", 1),
        ("cancel", testing.cancel(), "Cancelled", 1),
        ("abandon", testing.cancel(), "Completed", 0),
    ],
)
def test_what_happens_to_the_parent_happens_to_the_child(
    parent_close: str, end: Any, status: str, undone: int
) -> None:
    events, how = ((), end) if isinstance(end, str) else ((end,), "")
    result = testing.run(holds, (parent_close, how), events=events, **KIT)
    assert (result.instances["child"].status, len(result.calls)) == (status, undone)


def test_a_cancelled_grandparent_cancels_all_the_way_down() -> None:
    @orchestrator(registry=REGISTRY)
    async def above(ctx: OrchestrationContext) -> None:
        await ctx.call_sub_orchestrator(holds, ("terminate", ""), instance_id="between")

    result = testing.run(above, events=[testing.cancel(after=timedelta(minutes=1))], **KIT)
    assert [result.status, *(each.status for each in result.instances.values())] == ["Cancelled"] * 3


def test_a_child_that_asks_for_another_time_gets_it() -> None:
    @orchestrator(registry=REGISTRY)
    async def busy(ctx: OrchestrationContext) -> str:
        if not ctx.instance_id.endswith(".2"):
            raise RetryAfter(DAY)
        return "now"

    @orchestrator(registry=REGISTRY)
    async def asks(ctx: OrchestrationContext) -> str:
        return await ctx.call_sub_orchestrator(busy, retry=RetryPolicy(HOUR, 2))

    result = testing.run(asks, **KIT)
    assert (result.output, result.elapsed) == ("now", DAY)
