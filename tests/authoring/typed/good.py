"""Code that a type checker must accept; read by test_typing.py, never run."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from celeriac.activities import (
    INJECTED,
    ActivityContext,
    ActivityRegistry,
    AsyncActivity,
    SyncActivity,
    activity,
)
from celeriac.orchestrations import (
    OrchestrationContext,
    RetryPolicy,
    Task,
    orchestrator,
    queue_trigger,
    when_all,
    when_any,
)
from celeriac.orchestrations.registry import Orchestrator, Registry
from celeriac.orchestrations.triggers import TriggerRegistry

REGISTRY = ActivityRegistry()


@dataclass
class Order:
    id: str


@activity
def price(order: Order, *, discount: float = 0.0) -> float:
    return 1.0 - discount


@activity(queue="slow", timeout=timedelta(minutes=1))
async def fetch(url: str, context: ActivityContext = INJECTED) -> bytes:
    context.heartbeat()
    return url.encode()


@activity
def mixed(order: Order | None, note: str = "", *more: int, rebate: float = 0.0) -> str:
    return note


class RushOrder(Order): ...


anything: Any = price
as_sync: SyncActivity[..., float] = price
as_async: AsyncActivity[..., bytes] = fetch


@queue_trigger("orders", registry=TriggerRegistry())
@orchestrator
async def buy(ctx: OrchestrationContext, order: Order) -> float:
    one = await ctx.call_activity(price, order, discount=0.5)
    assert_type(one, float)
    tuned = price.with_options(retry=RetryPolicy(timedelta(seconds=1), 3))
    assert_type(await ctx.call_activity(tuned, order), float)
    assert_type(await ctx.call_activity(fetch, "u"), bytes)
    assert_type(await when_all([ctx.call_activity(fetch, url) for url in ("a", "b")]), list[bytes])
    assert_type(await ctx.map(price, [order, order], max_parallel=2), list[float])
    assert_type(await ctx.map(fetch, ("a", "b")), list[bytes])
    assert_type(await ctx.map(fetch, (url for url in ("a", "b"))), list[bytes])
    assert_type(await ctx.map(mixed, [order, None], 3), list[str])
    assert_type(await ctx.map(mixed, [RushOrder("1")]), list[str])
    assert_type(await ctx.map(mixed, []), list[str])
    assert_type(await ctx.map(as_sync, [1, "a"]), list[float])
    assert_type(await ctx.map(tuned, iter([order]), return_exceptions=True), list[float | Exception])
    assert_type(await ctx.map("by name", [1, "a"]), list[Any])
    await ctx.map(anything, [1, "a"])
    items: list[Any] = [order]
    assert_type(await ctx.map(price, items), list[float])
    first = await when_any([ctx.call_activity(price, order), ctx.create_timer(timedelta(days=1))])
    assert_type(first, Task[float | None])
    assert_type(await ctx.wait_for_external_event("Paid", Order, timedelta(days=1)), Order)
    assert_type(await ctx.call_activity("by name", 1, x=2), Any)
    assert_type(await ctx.call_sub_orchestrator(count, 3), list[int])
    assert_type(await ctx.call_sub_orchestrator(alone), None)
    return one


@orchestrator(name="counting", version="2", registry=Registry())
def count(ctx: OrchestrationContext, upto: int) -> Generator[Task[Any], Any, list[int]]:
    yield ctx.create_timer(timedelta(seconds=upto))
    return list(range(upto))


@orchestrator
async def alone(ctx: OrchestrationContext) -> None: ...


assert_type(buy, Orchestrator[Order, float])
assert_type(count, Orchestrator[int, list[int]])
assert_type(price(Order("1")), float)


async def plain_call() -> None:
    assert_type(await fetch("u"), bytes)
