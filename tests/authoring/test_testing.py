"""The test kit itself: virtual time, retries, children, events, cancel, and the check by replay."""

from __future__ import annotations

import json
import random
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from celeriac.activities import INJECTED, ActivityContext, ActivityRegistry, activity
from celeriac.orchestrations import (
    CodecError,
    NonDeterminismError,
    OrchestrationCancelledError,
    OrchestrationContext,
    RetryAfter,
    RetryPolicy,
    Task,
    TaskFailedError,
    orchestrator,
    testing,
    when_all,
    when_any,
)
from celeriac.orchestrations.history import (
    GroupScheduled,
    PartOutcome,
    TaskCompleted,
    TaskFailed,
    encode_event,
)
from celeriac.orchestrations.recording import Recording
from celeriac.orchestrations.registry import Registry

REGISTRY = Registry()
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
RETRY = RetryPolicy(timedelta(minutes=1), 4, backoff_coefficient=2)


@activity(registry=ActivityRegistry())
def work(n: int) -> int:
    return n * 2


def run(*args: Any, **kwargs: Any) -> testing.TestResult:
    return testing.run(
        *args, registry=REGISTRY, activities={"work": work, **kwargs.pop("activities", {})}, **kwargs
    )


# --- activities --------------------------------------------------------------------------------------


@orchestrator(registry=REGISTRY)
async def fan_out(ctx: OrchestrationContext, n: int) -> list[int]:
    return await when_all([ctx.call_activity(work, i) for i in range(n)])


@orchestrator(registry=REGISTRY)
async def mapped(ctx: OrchestrationContext, n: int) -> list[int]:
    return await ctx.map(work, range(n), max_parallel=2)


@orchestrator(registry=REGISTRY)
async def one(ctx: OrchestrationContext, n: int) -> int:
    return await ctx.call_activity(work.with_options(retry=RETRY), n)


@orchestrator(registry=REGISTRY)
async def limited(ctx: OrchestrationContext) -> int:
    return await ctx.call_activity(work.with_options(timeout=HOUR), 1)


@pytest.mark.parametrize("orchestration", [fan_out, mapped])
@pytest.mark.parametrize("width", [0, 1, 2, 5, 300])
def test_fan_out_and_in(orchestration: Any, width: int) -> None:
    result = run(orchestration, width)
    assert result.output == [i * 2 for i in range(width)]
    assert len(result.attempts("work")) == width


def test_a_window_lets_so_many_run_at_once() -> None:
    result = run(mapped, 5, durations={"work": HOUR})
    assert [call.at for call in result.calls] == [0 * HOUR, 0 * HOUR, HOUR, HOUR, 2 * HOUR]
    assert result.elapsed == 3 * HOUR


def test_a_cancelled_map_begins_no_further_part() -> None:
    @orchestrator(registry=Registry())
    async def gives_up(ctx: OrchestrationContext) -> bool:
        mapped = ctx.map(work, range(9), max_parallel=2)
        await ctx.create_timer(HOUR * 1.5)
        cancelled = mapped.cancel()
        await ctx.create_timer(DAY)
        return cancelled

    result = run(gives_up, durations={"work": HOUR})
    assert result.output is True
    assert [call.at for call in result.calls] == [0 * HOUR, 0 * HOUR, HOUR, HOUR]


def test_retries_take_virtual_time_and_stand_in_the_history() -> None:
    attempts: list[int] = []

    def flaky(n: int, context: ActivityContext = INJECTED) -> int:
        attempts.append(context.attempt)
        if context.attempt < 4:
            raise ConnectionError(f"no {context.attempt}")
        return n

    result = run(one, 7, activities={"work": flaky})
    assert (result.output, attempts) == (7, [1, 2, 3, 4])
    assert result.elapsed == timedelta(minutes=1 + 2 + 4)
    completed = next(event for event in result.history if isinstance(event, TaskCompleted))
    assert [(each.number, each.delay, each.message) for each in completed.attempts] == [
        (1, 60_000, "no 1"),
        (2, 120_000, "no 2"),
        (3, 240_000, "no 3"),
    ]


def test_retries_run_out() -> None:
    def broken(n: int) -> int:
        raise ConnectionError("never")

    result = run(one, 7, activities={"work": broken})
    assert result.status == "Failed"
    assert result.failure is not None
    assert result.failure.is_caused_by(ConnectionError)
    failed = next(event for event in result.history if isinstance(event, TaskFailed))
    assert [each.number for each in failed.failure.attempts] == [1, 2, 3, 4]


def test_retry_after_says_when() -> None:
    def busy(n: int, context: ActivityContext = INJECTED) -> int:
        if context.attempt == 1:
            raise RetryAfter(DAY)
        return n

    assert run(one, 7, activities={"work": busy}).elapsed == DAY


def test_a_result_that_cannot_be_written_is_named_and_not_retried() -> None:
    result = run(one, 7, activities={"work": lambda n: CodecError})
    assert result.failure is not None
    assert "the result of activity 'work'" in str(result.failure)
    assert len(result.calls) == 1


def test_an_unknown_activity_is_a_clear_failure() -> None:
    @orchestrator(registry=REGISTRY)
    async def lost(ctx: OrchestrationContext) -> None:
        await ctx.call_activity("does_not_exist", 1)

    result = run(lost)
    assert result.failure is not None
    assert result.failure.is_caused_by("UnknownActivityError")
    assert "no activity is called 'does_not_exist'" in str(result.failure)


def test_time_limits_hold_in_virtual_time() -> None:
    assert run(limited, durations={"work": HOUR}).output == 2
    result = run(limited, durations={"work": 2 * HOUR})
    assert result.elapsed == HOUR
    assert result.failure is not None
    assert result.failure.is_caused_by(TimeoutError)


# --- time and events ---------------------------------------------------------------------------------


@orchestrator(registry=REGISTRY)
async def race(ctx: OrchestrationContext) -> str:
    event, timer = ctx.wait_for_external_event("Go", str), ctx.create_timer(30 * DAY)
    if await when_any([event, timer]) is timer:
        return "too late"
    timer.cancel()
    return f"{event.result} at {ctx.current_utc_datetime:%d.%m.}"


def test_thirty_days_pass_in_no_time() -> None:
    assert run(race).output == "too late"
    assert run(race).elapsed == 30 * DAY
    go = testing.event("GO", "yes", after=29 * DAY)
    result = run(race, events=[go], start_at=datetime(2024, 2, 1, tzinfo=UTC))
    assert (result.output, result.elapsed) == ("yes at 01.03.", 29 * DAY)


def test_what_waits_for_ever_stays_running() -> None:
    @orchestrator(registry=REGISTRY)
    async def waits(ctx: OrchestrationContext) -> None:
        ctx.set_custom_status({"waiting": True})
        await ctx.wait_for_external_event("Never")

    result = run(waits)
    assert (result.status, result.output, result.custom_status) == ("Running", None, {"waiting": True})


def test_suspend_and_resume() -> None:
    @orchestrator(registry=REGISTRY)
    async def slow(ctx: OrchestrationContext) -> str:
        await ctx.create_timer(HOUR)
        return f"{ctx.current_utc_datetime:%H}"

    stopped = [testing.suspend(after=0 * HOUR)]
    assert run(slow, events=stopped).status == "Suspended"
    result = run(slow, events=[*stopped, testing.resume(after=5 * HOUR)])
    assert (result.output, result.elapsed) == ("05", 5 * HOUR)  # the clock of a history never goes back


def test_cancel_runs_the_compensation_and_terminate_does_not() -> None:
    @orchestrator(registry=REGISTRY)
    async def careful(ctx: OrchestrationContext) -> None:
        try:
            await ctx.create_timer(DAY)
        except OrchestrationCancelledError:
            await ctx.call_activity(work, 1)
            raise

    cancelled = run(careful, events=[testing.cancel("changed my mind", after=HOUR)])
    assert (cancelled.status, cancelled.elapsed, len(cancelled.calls)) == ("Cancelled", HOUR, 1)
    assert cancelled.failure is not None
    assert cancelled.failure.message == "changed my mind"
    terminated = run(careful, events=[testing.terminate(after=HOUR)])
    assert (terminated.status, len(terminated.calls)) == ("Terminated", 0)


def test_a_cancelled_fan_out_reports_its_parts_singly() -> None:
    @orchestrator(registry=REGISTRY)
    async def wide(ctx: OrchestrationContext) -> int:
        tasks = [ctx.call_activity(work, i) for i in range(3)]
        try:
            await when_all(tasks)
        except OrchestrationCancelledError:
            await tasks[2]
            return sum(task.is_completed for task in tasks)
        return -1

    result = run(wide, durations={"work": 2 * HOUR}, events=[testing.cancel(after=HOUR)])
    assert (result.output, result.elapsed) == (3, 2 * HOUR)


# --- children and runs -------------------------------------------------------------------------------


@orchestrator(registry=REGISTRY)
async def parent(ctx: OrchestrationContext, n: int) -> int:
    children = [ctx.call_sub_orchestrator(one, i) for i in range(n)]
    return sum(await when_all(children))


@orchestrator(registry=REGISTRY)
def eternal(ctx: OrchestrationContext, count: int) -> Generator[Task[Any], Any, None]:
    yield ctx.create_timer(DAY)
    ctx.continue_as_new(count + 1)


def test_children() -> None:
    result = run(parent, 3)
    assert result.output == 6
    assert {child.output for child in result.instances.values()} == {0, 2, 4}


def test_children_end_with_their_parent() -> None:
    @orchestrator(registry=REGISTRY)
    async def leaves(ctx: OrchestrationContext, parent_close: Any) -> str:
        ctx.call_sub_orchestrator(race, parent_close=parent_close, instance_id="child")
        await ctx.create_timer(HOUR)
        return "gone"

    for parent_close, status in (
        ("terminate", "Terminated"),
        ("cancel", "Cancelled"),
        ("abandon", "Completed"),
    ):
        assert run(leaves, parent_close).instances["child"].status == status


def test_a_child_that_fails_and_one_that_nobody_knows() -> None:
    @orchestrator(registry=REGISTRY)
    async def calls(ctx: OrchestrationContext, name: str) -> str:
        try:
            await ctx.call_sub_orchestrator(name, retry=RetryPolicy(HOUR, 2))
        except TaskFailedError as error:
            return error.details.message
        return ""

    @orchestrator(registry=REGISTRY)
    async def fails(ctx: OrchestrationContext) -> None:
        raise ValueError("always")

    failed = run(calls, "fails")
    assert (failed.output, failed.elapsed, len(failed.instances)) == ("always", HOUR, 2)
    assert run(calls, "nobody").output == "no orchestrator is called 'nobody'"


def test_an_id_that_runs_already_fails_the_call() -> None:
    @orchestrator(registry=REGISTRY)
    async def twins(ctx: OrchestrationContext) -> list[Any]:
        pair = [ctx.call_sub_orchestrator(one, n, instance_id="same") for n in range(2)]
        return [type(each).__name__ for each in await when_all(pair, return_exceptions=True)]

    assert run(twins).output == ["int", "TaskFailedError"]


def test_an_eternal_orchestrator_is_watched_for_a_while() -> None:
    result = run(eternal, 0, until=10 * DAY + HOUR)
    assert (result.status, len(result.runs), result.elapsed) == ("Running", 11, 10 * DAY + HOUR)
    with pytest.raises(RuntimeError, match=r"no end in sight .* needs until="):
        run(eternal, 0, max_events=50)


# --- replay ------------------------------------------------------------------------------------------


def test_code_that_is_not_deterministic_fails_its_test() -> None:
    @orchestrator(registry=REGISTRY)
    async def dice(ctx: OrchestrationContext) -> int:
        return await ctx.call_activity(work, random.getrandbits(64))

    with pytest.raises(NonDeterminismError, match=r"recorded: TaskScheduled"):
        run(dice)
    assert run(dice, check_replay=False).status == "Completed"


@pytest.mark.parametrize("orchestration", [fan_out, mapped, one])
def test_a_recording_is_replayed(orchestration: Any) -> None:
    recording = run(orchestration, 3).to_json()
    testing.replay_history(orchestration, recording)
    if orchestration is one:  # a list of events, as `celeriac history --json` prints it, with more fields
        events = [{"type": "x", **json.loads(encode_event(event))} for event in run(one, 3).history]
        testing.replay_history(orchestration, json.dumps(events))

    @orchestrator(name=orchestration.name, registry=Registry())
    async def changed(ctx: OrchestrationContext, n: int) -> None:
        await ctx.create_timer(DAY)

    with pytest.raises(NonDeterminismError, match=r"issued: +TimerCreated"):
        testing.replay_history(changed, recording)
    with pytest.raises(CodecError, match="this is no recorded history"):
        testing.replay_history(changed, "[{}]")


def test_a_recording_holds_what_the_events_refer_to() -> None:
    """As recorded from a real engine, where large texts and group outcomes lie beside the history."""
    result = run(mapped, 2)
    events = [
        msgspec.structs.replace(event, parts="@p1") if isinstance(event, GroupScheduled) else event
        for event in result.history
    ]
    parts = next(event.parts for event in result.history if isinstance(event, GroupScheduled))

    class Beside:
        def text(self, ref: str, /) -> str:
            return {"@p1": parts, "@r0": "0"}.get(ref, ref)

        def group(self, seq: int, /) -> list[PartOutcome]:
            return [PartOutcome(result="@r0"), PartOutcome(result="2")]

    recording = Recording.of(events, Beside())
    assert (recording.payloads, list(recording.groups)) == ({"@p1": parts, "@r0": "0"}, [0])
    testing.replay_history(mapped, Recording.from_json(recording.to_json()))
    with pytest.raises(CodecError, match=r"outcomes of the fan-out #0"):
        testing.replay_history(mapped, Recording(events, recording.payloads))
    with pytest.raises(CodecError, match=r"payload @p1 but does not hold it"):
        testing.replay_history(mapped, Recording(events, {}, recording.groups))
