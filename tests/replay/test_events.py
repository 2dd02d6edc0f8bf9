"""Who gets an external event: the oldest waiter that is awaited now; else it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from world import Live, kinds

from celeriac.orchestrations import OrchestrationContext, when_all, when_any
from celeriac.orchestrations.codec import encode
from celeriac.orchestrations.history import EventRaised, TimerCancelled, TimerCreated

Ctx = OrchestrationContext


def test_a_dropped_waiter_never_swallows_an_event() -> None:
    async def dropping(ctx: Ctx) -> Any:
        for _ in range(50):
            event = ctx.wait_for_external_event("x")
            if await when_any([event, ctx.create_timer(timedelta(seconds=1))]) is event:
                return "too early"
        await ctx.call_activity("pause")
        return await ctx.wait_for_external_event("X")

    live = Live(dropping)
    live.start()
    for seq in range(50):
        live.fired(seq)
    live.raised("x", "kept")  # 50 dropped waiters of that name, and none that is awaited
    assert not live.execution.ended
    live.done(50)
    assert live.output == "kept"


def test_a_waiter_that_is_not_awaited_yet_gets_nothing_before_it_is() -> None:
    async def early(ctx: Ctx) -> Any:
        first = ctx.wait_for_external_event("x")
        await ctx.call_activity("a")
        seen = first.is_completed
        second = ctx.wait_for_external_event("x")
        got_second = await second  # the kept event belongs to whoever is awaited first
        return [seen, got_second, await first]

    live = Live(early)
    live.start()
    live.raised("x", 1)
    live.done(0)
    live.raised("x", 2)
    assert live.output == [False, 1, 2]


def test_a_kept_event_is_taken_in_the_step_that_awaits_it() -> None:
    async def waits(ctx: Ctx) -> Any:
        await ctx.call_activity("a")
        return [await ctx.wait_for_external_event(name) for name in ("B", "a", "b")]

    live = Live(waits)
    live.start()
    for name, value in (("a", 1), ("b", 2), ("b", 3)):
        assert kinds(live.raised(name, value)) == ["EventRaised"]
    live.done(0)
    assert live.output == [2, 1, 3]


@pytest.mark.parametrize("turned", [True, False])
def test_among_awaited_waiters_the_oldest_is_served(turned: bool) -> None:
    async def waits(ctx: Ctx) -> Any:
        oldest, middle, youngest = (ctx.wait_for_external_event("x") for _ in range(3))
        winner = await when_any([youngest, middle] if turned else [middle, youngest])
        first = [name for name, task in (("middle", middle), ("youngest", youngest)) if task is winner]
        return [first, await when_all([youngest, oldest])]

    live = Live(waits)
    live.start()
    for value in (1, 2, 3):
        live.raised("x", value)
    assert live.output == [["middle"], [3, 2]]


def test_kept_events_end_a_race_in_the_order_in_which_they_came() -> None:
    async def race(ctx: Ctx) -> Any:
        await ctx.call_activity("a")
        waiters = {name: ctx.wait_for_external_event(name) for name in ("first", "second")}
        winner = await when_any(waiters.values())
        other = await ctx.wait_for_external_event("first")  # was not swallowed by the loser
        return [winner is waiters["second"], other]

    live = Live(race)
    live.start()
    live.raised("second", 1)
    live.raised("first", 2)
    live.done(0)
    assert live.output == [True, 2]


@pytest.mark.parametrize("looked_before", [True, False])
def test_a_waiter_inside_a_finished_group_is_not_awaited_any_more(looked_before: bool) -> None:
    async def nested(ctx: Ctx) -> Any:
        waiter = ctx.wait_for_external_event("x")
        inner = when_any([waiter, ctx.call_activity("a")])
        await when_all([inner, ctx.call_activity("b")])
        return [waiter.is_completed, await ctx.wait_for_external_event("x")]

    live = Live(nested)
    live.start()
    if looked_before:
        live.raised("other")
    live.done(0)
    live.raised("x", "kept")
    live.done(1)
    assert live.output == [False, "kept"]


def test_the_timer_of_a_wait_goes_when_the_event_wins() -> None:
    async def waits(ctx: Ctx) -> Any:
        return await ctx.wait_for_external_event("x", timeout=timedelta(hours=1))

    live = Live(waits)
    assert TimerCreated(at=live.first.at, seq=0, due=live.first.at + 3_600_000) in live.start().events
    turn = live.raised("x", 5)
    assert TimerCancelled(at=live.first.at, seq=0) in turn.events
    assert turn.closed == (0,)
    assert live.output == 5


def test_no_timer_is_made_for_an_event_that_is_there() -> None:
    async def waits(ctx: Ctx) -> Any:
        await ctx.call_activity("a")
        return await ctx.wait_for_external_event("x", timeout=60.0)

    live = Live(waits)
    live.start()
    live.raised("x", 5)
    assert kinds(live.done(0, None)) == ["TaskCompleted", "ExecutionCompleted"]
    assert live.output == 5


@pytest.mark.parametrize("default", ["none", None, "missing"])
def test_a_timeout_raises_or_gives_the_default(default: Any) -> None:
    async def waits(ctx: Ctx) -> Any:
        if default == "missing":
            return await ctx.wait_for_external_event("x", timeout=1)
        value = await ctx.wait_for_external_event("x", timeout=1, default=default)
        return [value, await ctx.wait_for_external_event("x")]

    live = Live(waits)
    live.start()
    live.fired(0)
    if default == "missing":
        assert live.failure.error_type == "builtins.TimeoutError"
        assert "'x'" in live.failure.message
    else:
        live.raised("x", "later")
        assert live.output == [default, "later"]


@dataclass
class Order:
    id: int


def test_an_event_is_read_as_its_type_and_a_wrong_one_names_the_field() -> None:
    async def waits(ctx: Ctx) -> Any:
        order = await ctx.wait_for_external_event("order", Order)
        assert isinstance(order, Order)
        await ctx.wait_for_external_event("order", Order)

    live = Live(waits)
    live.start()
    live.raised("order", {"id": 1})
    live.raised("order", {"id": "one"})
    assert live.failure.error_type.endswith("CodecError")
    assert "$.id" in live.failure.message


def test_ten_thousand_kept_events_and_dropped_waiters_take_linear_time() -> None:
    count = 10_000

    async def consumes(ctx: Ctx) -> int:
        never = ctx.wait_for_external_event("stop")
        await ctx.call_activity("a")
        total = 0
        for _ in range(count):
            event = ctx.wait_for_external_event("n", int)
            await when_any([never, event])
            total += event.result
        return total

    live = Live(consumes)
    live.start()
    live.apply(*(EventRaised(name="n", input=encode(1)) for _ in range(count)))
    live.done(0)
    assert live.output == count
