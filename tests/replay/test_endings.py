"""How executions end: well, by cancel, by termination and as new; what they show meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import pytest
from world import START, Live, kinds

from celeriac.orchestrations import OrchestrationCancelledError, OrchestrationContext
from celeriac.orchestrations.errors import AuthoringError
from celeriac.orchestrations.history import (
    CancelRequested,
    EventRaised,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    TaskCompleted,
    TaskScheduled,
)
from celeriac.orchestrations.replay import Execution
from celeriac.orchestrations.turn import (
    UNCHANGED,
    Cancelled,
    Completed,
    ContinuedAsNewOutcome,
    Terminated,
)

Ctx = OrchestrationContext


# --- cancel, suspend, terminate ----------------------------------------------------------------


async def waits_for_x(ctx: Ctx) -> Any:
    return await ctx.wait_for_external_event("x")


async def compensates(ctx: Ctx) -> str:
    try:
        await ctx.call_activity("work")
    except OrchestrationCancelledError as error:
        await ctx.call_activity("undo", str(error))
        raise
    return "worked"


def test_cancel_is_raised_once_so_that_compensation_is_not_disturbed() -> None:
    live = Live(compensates)
    live.start()
    assert kinds(live.apply(CancelRequested(reason="late"))) == ["CancelRequested", "TaskScheduled"]
    assert kinds(live.apply(CancelRequested(reason="again"))) == ["CancelRequested"]
    live.done(1)
    assert live.execution.outcome == Cancelled("late")


def test_a_cancel_before_the_start_is_raised_at_the_first_await() -> None:
    live = Live(compensates)
    assert kinds(live.apply(CancelRequested(reason="early"))) == ["CancelRequested"]
    turn = live.start()
    # The activity it was about to wait for is scheduled: the code has called it.
    assert [e.name for e in turn.events if isinstance(e, TaskScheduled)] == ["work", "undo"]
    live.done(1)
    assert live.execution.outcome == Cancelled("early")


def test_a_caught_cancel_may_end_well() -> None:
    async def carries_on(ctx: Ctx) -> str:
        try:
            await ctx.wait_for_external_event("x")
        except OrchestrationCancelledError:
            return "tidy"
        return "x"

    live = Live(carries_on)
    live.start()
    live.apply(CancelRequested())
    assert live.output == "tidy"


def test_suspend_and_resume_are_recorded_and_change_nothing() -> None:
    live = Live(waits_for_x)
    assert live.start().suspended is None
    assert live.apply(ExecutionSuspended(reason="pause")).suspended is True
    turn = live.apply(ExecutionResumed(), EventRaised(name="x", input="1"))
    assert turn.suspended is False
    assert kinds(turn) == ["ExecutionResumed", "EventRaised", "ExecutionCompleted"]


def test_nothing_is_applied_after_the_end() -> None:
    live = Live(waits_for_x)
    live.start()
    turn = live.apply(EventRaised(name="x", input="1"), EventRaised(name="x", input="2"))
    assert (turn.consumed, turn.outcome) == (1, Completed("1"))
    assert live.apply(EventRaised(name="x")).events == []


def test_a_recorded_termination_ends_the_replay() -> None:
    live = Live(waits_for_x)
    live.start()
    execution = Execution(live.definition, live.payloads)
    execution.replay([*live.history, ExecutionTerminated(at=START, reason="enough")])
    assert execution.outcome == Terminated("enough")


def test_newer_rules_are_refused() -> None:
    with pytest.raises(AuthoringError, match="replay rules 99"):
        Live(waits_for_x, rules=99).start()


def test_an_inbox_holds_outside_events_only() -> None:
    live = Live(waits_for_x)
    live.start()
    with pytest.raises(ValueError, match="TaskScheduled"):
        live.apply(TaskScheduled(seq=0, name="a"))


# --- continue as new ---------------------------------------------------------------------------


@pytest.mark.parametrize("preserve", [True, False])
def test_what_goes_to_the_next_run(preserve: bool) -> None:
    async def renews(ctx: Ctx) -> None:
        await ctx.call_activity("a")
        ctx.continue_as_new({"n": 1}, preserve_events=preserve)

    live = Live(renews)
    live.start()
    kept, after = EventRaised(name="x", input="1", at=START), EventRaised(name="y", input="2")
    live.apply(kept)
    cancel, stale = CancelRequested(reason="next"), TaskCompleted(seq=7)
    turn = live.apply(TaskCompleted(seq=0), after, stale, cancel)
    assert turn.outcome == ContinuedAsNewOutcome('{"n":1}', preserve)
    assert turn.consumed == 4
    assert turn.carried == ((kept,) if preserve else ()) + (after, cancel)
    assert kinds(turn) == ["TaskCompleted", "ContinuedAsNew"]


async def swallows_and_loops(ctx: Ctx) -> None:
    while True:
        try:
            await ctx.call_activity("a")
            ctx.continue_as_new()
        except:  # noqa: E722 - what authors do
            ctx.logger.info("never mind")


async def swallows_and_returns(ctx: Ctx) -> str:
    await ctx.call_activity("a")
    with contextlib.suppress(BaseException):
        ctx.continue_as_new()
    return "returned"


async def cleans_up(ctx: Ctx) -> None:
    try:
        await ctx.call_activity("a")
        ctx.continue_as_new()
    finally:
        await ctx.call_activity("clean")


def cleans_up_in_a_generator(ctx: Ctx) -> Generator[Any, Any, None]:
    try:
        yield ctx.call_activity("a")
        ctx.continue_as_new()
    finally:
        yield ctx.call_activity("clean")


@pytest.mark.parametrize(
    "author", [swallows_and_loops, swallows_and_returns, cleans_up, cleans_up_in_a_generator]
)
def test_continue_as_new_cannot_be_swallowed(author: Any) -> None:
    live = Live(author)
    live.start()
    live.done(0)
    assert live.execution.outcome == ContinuedAsNewOutcome(None, True)


def test_child_ids_tell_the_runs_apart() -> None:
    async def parents(ctx: Ctx) -> list[Any]:
        first = ctx.start_orchestration("child")
        return [first, ctx.start_orchestration("child", instance_id="mine")]

    once, again = Live(parents), Live(parents, run=12)
    once.start()
    again.start()
    assert once.output == ["inst:0000", "mine"]
    assert again.output == ["inst:r12:0000", "mine"]


def test_status_is_reported_when_it_is_set() -> None:
    async def shows(ctx: Ctx) -> None:
        ctx.set_custom_status(1)
        ctx.set_custom_status({"n": 2})
        await ctx.call_activity("a")
        await ctx.call_activity("b")
        ctx.set_custom_status(None)
        ctx.set_custom_status("x" * 20_000)

    live = Live(shows)
    assert live.start().custom_status == '{"n":2}'
    assert live.done(0).custom_status is UNCHANGED
    assert live.done(1).custom_status is None
    assert "20002 bytes" in live.failure.message


def test_time_comes_from_events_and_never_goes_back() -> None:
    async def clocks(ctx: Ctx) -> list[float]:
        first = ctx.current_utc_datetime
        await ctx.call_activity("a")
        second = ctx.current_utc_datetime
        await ctx.call_activity("b")
        return [(t - first).total_seconds() for t in (second, ctx.current_utc_datetime)]

    live = Live(clocks)
    live.start()
    live.apply(TaskCompleted(at=START + 2500, seq=0))
    live.apply(TaskCompleted(at=START + 1, seq=1))
    assert live.output == [2.5, 2.5]
    assert [event.at - START for event in live.history[-2:]] == [2500, 2500]


def test_what_is_dropped_moves_neither_the_time_nor_the_length() -> None:
    live = Live(waits_for_x)
    live.start()
    turn = live.apply(TaskCompleted(at=START + 9000, seq=5), EventRaised(at=START + 10, name="x"))
    assert turn.consumed == 2
    assert [event.at - START for event in turn.events] == [10, 10]
    assert live.execution.history_length == len(live.history) == 3


def test_a_second_start_is_dropped() -> None:
    live = Live(waits_for_x)
    live.start()
    assert live.apply(ExecutionStarted(execution="other", instance="inst", name="waits_for_x")).events == []
