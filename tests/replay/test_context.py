"""What the context tells an orchestrator, and that it tells the same on replay."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from world import START, Live

from celeriac.orchestrations import OrchestrationContext, RetryPolicy
from celeriac.orchestrations.codec import encode
from celeriac.orchestrations.commands import check_instance_id, child_id
from celeriac.orchestrations.history import (
    AnyEvent,
    EventRaised,
    SubOrchestrationInstanceCreated,
    TaskCompleted,
    TimerCreated,
)
from celeriac.orchestrations.replay import Execution

Ctx = OrchestrationContext


def replayed(live: Live) -> Execution:
    execution = Execution(live.definition, live.payloads)
    execution.replay(live.history)
    return execution


def test_who_it_is() -> None:
    async def tells(ctx: Ctx, given: dict[str, int]) -> Any:
        return [
            ctx.instance_id, ctx.parent_instance_id, ctx.name, ctx.version, ctx.tags,
            ctx.get_input() == given, ctx.current_utc_datetime.isoformat(),
        ]  # fmt: skip

    live = Live(tells, {"a": 1}, parent="mother", version="2", tags={"k": "v"})
    live.start()
    when = datetime.fromtimestamp(START / 1000, UTC).isoformat()
    assert live.output == ["inst", "mother", "tells", "2", {"k": "v"}, True, when]


def test_uuids_and_random_numbers_repeat_and_differ_between_runs() -> None:
    async def rolls(ctx: Ctx) -> Any:
        found = [str(ctx.new_uuid()), ctx.random().random()]
        await ctx.call_activity("a")
        return [*found, str(ctx.new_uuid()), ctx.random().random()]

    live = Live(rolls)
    live.start()
    again = replayed(live)
    live.done(0)
    again.advance([TaskCompleted(seq=0)])
    assert again.outcome == live.execution.outcome
    assert len(set(live.output)) == 4
    other = Live(rolls)
    other.apply(live.first.__class__(execution="e9", instance="inst", name="rolls"))
    other.done(0)
    assert not set(other.output) & set(live.output)


def test_the_logger_is_silent_while_replaying(caplog: pytest.LogCaptureFixture) -> None:
    async def talks(ctx: Ctx) -> Any:
        ctx.logger.info("first %s", ctx.is_replaying)
        await ctx.call_activity("a")
        ctx.logger.warning("second %s", ctx.is_replaying)

    caplog.set_level(logging.INFO)
    live = Live(talks)
    live.start()
    again = replayed(live)
    again.advance([TaskCompleted(seq=0)])
    assert [record.getMessage() for record in caplog.records] == ["[inst] first False", "[inst] second False"]
    assert caplog.records[0].name == "celeriac.orchestrator.talks"


def test_length_and_size_are_the_same_on_replay_and_suggest_a_new_run() -> None:
    seen: list[tuple[int, int, bool]] = []

    async def grows(ctx: Ctx) -> None:
        while True:
            await ctx.wait_for_external_event("x")
            seen.append((ctx.history_length, ctx.history_size, ctx.continue_as_new_suggested))
            ctx.set_custom_status(len(seen))

    live = Live(grows)
    live.start()
    for _ in range(3):
        live.raised("x", "y" * 1000)
    first, seen[:] = list(seen), []
    again = replayed(live)
    assert seen == first
    assert [length for length, _, _ in first] == [2, 4, 6]
    assert first[2][1] > 3000
    assert not first[2][2]
    events: list[AnyEvent] = [EventRaised(name="x", input=encode("y")) for _ in range(5000)]
    again.advance(events)
    assert seen[-1][0] > 10_000
    assert seen[-1][2]


def test_child_ids() -> None:
    assert child_id("order-7", 0, 3) == "order-7:0003"
    assert child_id("order-7", 2, 70_000) == "order-7:r2:11170"
    long = child_id("x" * 201, 0, 1)
    assert len(long) == 37
    assert long != child_id("x" * 202, 0, 1)


@pytest.mark.parametrize("bad", ["", "@x", "a/b", "a\\b", "a#b", "a?b", "a\nb", "x" * 257])
def test_bad_ids_are_refused_where_they_are_given(bad: str) -> None:
    async def child(ctx: Ctx) -> None:
        ctx.start_orchestration("c", instance_id=bad)

    async def event(ctx: Ctx) -> None:
        ctx.send_event(bad, "x")

    for function in (child, event):
        if function is child and not bad:
            continue
        live = Live(function)
        live.start()
        assert live.failure.error_type == "builtins.ValueError"
    with pytest.raises(ValueError, match="instance id"):
        check_instance_id(bad)


def test_times_are_rounded_up_and_must_have_a_zone() -> None:
    async def sleeps(ctx: Ctx) -> None:
        ctx.create_timer(timedelta(microseconds=1))
        ctx.create_timer(datetime(2030, 1, 1, microsecond=1, tzinfo=UTC))
        ctx.create_timer(timedelta(days=-1))
        ctx.create_timer(datetime(2030, 1, 1))

    live = Live(sleeps)
    due = [event.due for event in live.start().events if isinstance(event, TimerCreated)]
    year = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp() * 1000)
    assert due == [START + 1, year + 1, START - 86_400_000]
    assert "no time zone" in live.failure.message


def retry_is_asked(context: Any) -> timedelta | bool:
    """A retry handler; see the test below."""
    if context.attempt > 2:
        raise LookupError("no opinion")
    return timedelta(seconds=context.attempt)


def test_the_handler_of_a_child_s_policy_decides_and_its_error_is_the_failure() -> None:
    async def parents(ctx: Ctx) -> None:
        policy = RetryPolicy(timedelta(seconds=100), handler=retry_is_asked)
        await ctx.call_sub_orchestrator("c", retry=policy, parent_close="abandon", tags={"a": "b"})

    from celeriac.orchestrations.errors import FailureDetails
    from celeriac.orchestrations.history import SubOrchestrationInstanceFailed

    live = Live(parents)
    live.start()
    for seq in (0, 2):
        live.apply(SubOrchestrationInstanceFailed(seq=seq, failure=FailureDetails("E", "m")))
        live.fired(seq + 1)
    live.apply(SubOrchestrationInstanceFailed(seq=4, failure=FailureDetails("E", "m")))
    children = [event for event in live.history if isinstance(event, SubOrchestrationInstanceCreated)]
    assert [child.instance for child in children] == ["inst:0000", "inst:0000.2", "inst:0000.3"]
    assert {(child.parent_close, child.tags["a"]) for child in children} == {("abandon", "b")}
    dues = [event.due - START for event in live.history if isinstance(event, TimerCreated)]
    assert dues == [1000, 2000]
    assert live.failure.is_caused_by("LookupError")
    assert live.failure.is_caused_by("E")


def test_what_is_no_activity_or_orchestrator_is_refused_by_name() -> None:
    async def calls(ctx: Ctx, how: int) -> None:
        plain: Any = retry_is_asked
        (ctx.call_activity, ctx.call_sub_orchestrator, ctx.start_orchestration)[how](plain, 1)

    for how, word in enumerate(("@activity", "@orchestrator", "@orchestrator")):
        live = Live(calls, how)
        live.start()
        assert "retry_is_asked" in live.failure.message
        assert word in live.failure.message
