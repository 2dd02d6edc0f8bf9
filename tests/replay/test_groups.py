"""Which fan-outs are groups, and what becomes of a group whose await ends otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from world import Boom, Live, kinds

from celeriac.orchestrations import (
    OrchestrationCancelledError,
    OrchestrationContext,
    Task,
    TaskFailedError,
    when_all,
    when_any,
)
from celeriac.orchestrations.history import (
    ActivityOptions,
    CancelRequested,
    EventRaised,
    GroupCompleted,
    GroupScheduled,
    TaskCancelled,
)

Ctx = OrchestrationContext


class Reference:
    """An activity with options."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name, self.options, self.function = name, ActivityOptions(**options), lambda: None


def group_of(function: Any) -> GroupScheduled | None:
    turn = Live(function).start()
    return next((event for event in turn.events if isinstance(event, GroupScheduled)), None)


def test_the_record_of_a_group() -> None:
    async def fans(ctx: Ctx) -> None:
        plain: Any = Reference("a")
        slow: Any = Reference("b", queue="slow")
        ctx.set_custom_status("before")
        await when_all([ctx.call_activity("a", 1), ctx.call_activity(slow, x=2), ctx.call_activity(plain, 3)])

    group = group_of(fans)
    assert group is not None
    assert (group.seq, group.size, group.name, group.window) == (0, 3, "", 0)
    assert json.loads(group.parts) == [["a", "[[1],{}]", 0], ["b", '[[],{"x":2}]', 1], ["a", "[[3],{}]", 0]]
    assert group.options == (ActivityOptions(), ActivityOptions(queue="slow"))


def calls(ctx: Ctx, count: int = 3) -> list[Task[Any]]:
    return [ctx.call_activity("a", n) for n in range(count)]


async def fail_fast(ctx: Ctx) -> None:
    await when_all(calls(ctx), fail_fast=True)


async def any_of(ctx: Ctx) -> None:
    await when_any(calls(ctx))


async def one(ctx: Ctx) -> None:
    await when_all(calls(ctx, 1))


async def with_a_timer(ctx: Ctx) -> None:
    await when_all([*calls(ctx), ctx.create_timer(timedelta(1))])


async def nested(ctx: Ctx) -> None:
    await when_all([when_all(calls(ctx)), when_all(calls(ctx))])


async def awaited_elsewhere_too(ctx: Ctx) -> None:
    tasks = calls(ctx)
    when_any(tasks)
    await when_all(tasks)


async def with_a_gap(ctx: Ctx) -> None:
    tasks = calls(ctx)
    await when_all([tasks[0], tasks[2]])


async def one_is_cancelled(ctx: Ctx) -> None:
    tasks = calls(ctx)
    tasks[0].cancel()
    await when_all(tasks)


@pytest.mark.parametrize(
    "shape",
    [fail_fast, any_of, one, with_a_timer, nested, awaited_elsewhere_too, with_a_gap, one_is_cancelled],
)
def test_other_shapes_are_single_activities(shape: Callable[..., Any]) -> None:
    assert group_of(shape) is None


def test_activities_of_an_earlier_step_are_no_group() -> None:
    async def later(ctx: Ctx) -> None:
        tasks = calls(ctx)
        await ctx.call_activity("other")
        await when_all(tasks)

    live = Live(later)
    assert kinds(live.start()) == ["ExecutionStarted", *["TaskScheduled"] * 4]
    assert kinds(live.done(3)) == ["TaskCompleted"]


def test_some_of_the_step_and_duplicates_still_are_a_group() -> None:
    async def some(ctx: Ctx) -> Any:
        alone = ctx.call_activity("alone")
        tasks = calls(ctx)
        results = await when_all([tasks[2], tasks[0], tasks[1], tasks[0]])
        return [results, await alone]

    live = Live(some)
    assert kinds(live.start()) == ["ExecutionStarted", "TaskScheduled", "GroupScheduled"]
    live.group(1, "r0", "r1", "r2")
    live.done(0, "x")
    assert live.output == [["r2", "r0", "r1", "r0"], "x"]


def test_failures_of_a_group_come_in_input_order() -> None:
    async def fans(ctx: Ctx) -> Any:
        try:
            await when_all(calls(ctx))
        except TaskFailedError as error:
            return [error.seq, error.details.message, [f.message for f in error.failures]]

    live = Live(fans)
    live.start()
    live.group(0, 1, Boom("second"), Boom("third"))
    assert live.output == [1, "second", ["second", "third"]]


async def cancelled_while_fanning_out(ctx: Ctx) -> Any:
    tasks = calls(ctx)
    try:
        return await when_all(tasks)
    except OrchestrationCancelledError:
        tasks[0].cancel()
        return await when_all(tasks[1:])


def test_cancel_dissolves_the_group_and_its_parts_report_singly() -> None:
    live = Live(cancelled_while_fanning_out)
    live.start()
    turn = live.apply(CancelRequested())
    assert turn.dissolved == (0,)
    assert turn.closed == (0,)
    assert TaskCancelled(at=live.first.at, seq=0) in turn.events
    assert live.done(0, "late").events == []
    live.done(1, "one")
    live.done(2, "two")
    assert live.output == ["one", "two"]


def test_a_group_that_was_complete_when_it_was_cancelled_still_counts() -> None:
    live = Live(cancelled_while_fanning_out)
    live.start()
    live.apply(CancelRequested())
    live.group(0, "zero", "one", "two")
    assert live.output == ["one", "two"]
    assert live.apply(GroupCompleted(seq=0)).events == []


def test_a_cancelled_map_is_dropped_whole() -> None:
    async def maps(ctx: Ctx) -> Any:
        mapped = ctx.map("a", range(3), max_parallel=2)
        await ctx.call_activity("b")
        mapped.cancel()
        await ctx.wait_for_external_event("x")

    live = Live(maps)
    group = next(event for event in live.start().events if isinstance(event, GroupScheduled))
    assert (group.seq, group.size, group.window) == (0, 3, 2)
    turn = live.done(3)
    assert (turn.closed, turn.dissolved, turn.dropped) == ((), (), (0,))
    assert TaskCancelled(at=live.first.at, seq=0) in turn.events
    assert live.done(1, "late").events == []
    assert live.apply(GroupCompleted(seq=0)).events == []


async def two_maps_cancelled(ctx: Ctx) -> None:
    first, second = ctx.map("a", range(3)), ctx.map("a", range(4))
    for mapped in (second, first):
        await ctx.wait_for_external_event("stop")
        mapped.cancel()
    await ctx.wait_for_external_event("x")


@pytest.mark.parametrize("slices", [(1, 1, 1), (2, 1), (1, 2), (3,)])
def test_what_is_dropped_does_not_depend_on_how_the_inbox_is_split(slices: tuple[int, ...]) -> None:
    live = Live(two_maps_cancelled)
    inbox, dropped = [live.first, *[EventRaised(name="stop")] * 2], []
    for size in slices:
        some, inbox = inbox[:size], inbox[size:]
        dropped.append(live.apply(*some).dropped)
    assert sum(dropped, ()) == (3, 0)
    whole = Live(two_maps_cancelled)
    whole.apply(whole.first, *[EventRaised(name="stop")] * 2)
    assert live.history == whole.history
    assert live.raised("other").dropped == ()


def test_a_map_cancelled_in_the_step_that_made_it_is_not_dropped_but_never_was() -> None:
    async def maps(ctx: Ctx) -> None:
        ctx.map("a", range(3)).cancel()
        await ctx.wait_for_external_event("x")

    turn = Live(maps).start()
    assert (kinds(turn), turn.dropped) == (["ExecutionStarted"], ())


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True])
def test_a_window_is_a_number_from_one(wrong: Any) -> None:
    async def maps(ctx: Ctx) -> Any:
        await ctx.map("a", [1], max_parallel=wrong)

    live = Live(maps)
    live.start()
    assert "max_parallel" in live.failure.message


def test_a_map_of_100_000_keeps_one_task() -> None:
    async def maps(ctx: Ctx) -> int:
        return len(await ctx.map("a", range(100_000), 100))

    live = Live(maps)
    turn = live.start()
    assert len(turn.events) == 2
    assert len(live.execution._run.open) == 0
    live.group(0, *range(100_000))
    assert live.output == 100_000
