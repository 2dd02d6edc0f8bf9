"""Sub-orchestrations that are tried again: their ids, their delays, and what is told of the attempts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from world import START, Live

from celeriac.orchestrations import OrchestrationContext, RetryAfter, RetryPolicy, TaskFailedError
from celeriac.orchestrations.commands import attempt_id, check_instance_id
from celeriac.orchestrations.errors import FailureDetails, failure_from
from celeriac.orchestrations.history import (
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TimerCreated,
)
from celeriac.orchestrations.replay import Execution
from celeriac.orchestrations.retry import LONGEST_DELAY, RetryContext, asked_delay

Ctx = OrchestrationContext


class Busy(RetryAfter):
    """A RetryAfter of the author's own, with properties of its own."""

    def __init__(self) -> None:
        super().__init__(timedelta(minutes=5))
        self.properties = {"queue": 7}


def never(_context: RetryContext) -> bool:
    """A handler that does not try again."""
    return False


def fail(live: Live, seq: int, failure: FailureDetails | BaseException) -> None:
    """Let the child with this number fail."""
    details = failure if isinstance(failure, FailureDetails) else failure_from(failure)
    live.apply(SubOrchestrationInstanceFailed(seq=seq, failure=details))


def dues(live: Live) -> list[int]:
    return [event.due - START for event in live.history if isinstance(event, TimerCreated)]


def children(live: Live) -> list[str]:
    return [event.instance for event in live.history if isinstance(event, SubOrchestrationInstanceCreated)]


def check_replays(live: Live) -> None:
    """The history replays, also when it went through JSON."""
    again = Execution(live.definition, live.payloads)
    again.replay(live.history)
    assert again.outcome == live.execution.outcome or not live.execution.ended
    assert again.history_length == len(live.history)


def test_ids_of_further_attempts() -> None:
    assert attempt_id("order-7", 2) == "order-7.2"
    assert attempt_id("x" * 254, 2) == "x" * 254 + ".2"
    long = attempt_id("x" * 255, 2)
    assert len(long) == 34
    assert long.endswith(".2")
    assert long != attempt_id("y" * 255, 2)


def test_a_child_with_the_longest_id_is_tried_again_under_an_id_that_is_allowed() -> None:
    async def parents(ctx: Ctx) -> None:
        retry = RetryPolicy(timedelta(seconds=1), 3)
        await ctx.call_sub_orchestrator("c", instance_id="x" * 256, retry=retry)

    live = Live(parents)
    live.start()
    for seq in (0, 2):
        fail(live, seq, FailureDetails("E", "m"))
        live.fired(seq + 1)
    assert len(set(children(live))) == 3
    first, *_ = map(check_instance_id, children(live))
    assert first == "x" * 256
    check_replays(live)


@pytest.mark.parametrize("error", [RetryAfter(300), Busy()])
def test_a_retry_after_of_the_child_is_its_delay_whatever_filters_and_handler_say(error: RetryAfter) -> None:
    async def parents(ctx: Ctx) -> Any:
        retry = RetryPolicy(timedelta(seconds=1), 2, retry_on=[KeyError], handler=never)
        await ctx.call_sub_orchestrator("c", retry=retry)

    live = Live(parents)
    live.start()
    fail(live, 0, error)
    assert dues(live) == [300_000]
    live.fired(1)
    fail(live, 2, error)  # the number of attempts holds
    assert live.failure.is_caused_by(RetryAfter)
    check_replays(live)


def test_the_delay_travels_beside_the_author_s_own_properties() -> None:
    failure = failure_from(Busy())
    assert failure.properties == {"queue": 7, "retry_after_ms": 300_000}
    assert asked_delay(failure) == timedelta(minutes=5)
    assert asked_delay(failure_from(RetryAfter(timedelta.max))) == timedelta(milliseconds=LONGEST_DELAY)
    assert asked_delay(failure_from(RetryAfter(-1))) == timedelta()
    without = Busy()
    del without.delay
    assert failure_from(without).properties == {"queue": 7}


@pytest.mark.parametrize("value", [None, "5", True, 1.5, [1]])
def test_only_a_retry_after_asks_for_a_delay(value: Any) -> None:
    name = "celeriac.orchestrations.errors.RetryAfter"
    assert asked_delay(FailureDetails(name, properties={"retry_after_ms": value})) is None
    assert asked_delay(FailureDetails(name)) is None  # recorded before the delay travelled
    inner = failure_from(RetryAfter(5))
    assert asked_delay(FailureDetails("builtins.ValueError", properties=inner.properties)) is None
    assert asked_delay(FailureDetails("builtins.ValueError", inner=inner)) is None


def test_the_attempts_are_told_with_the_last_failure() -> None:
    async def parents(ctx: Ctx) -> Any:
        try:
            await ctx.call_sub_orchestrator("c", retry=RetryPolicy(timedelta(seconds=1), 3, 2.0))
        except TaskFailedError as error:
            return [
                [each.number, each.at - START, each.message, each.delay] for each in error.details.attempts
            ]

    live = Live(parents)
    live.start()
    for seq in (0, 2):
        fail(live, seq, ValueError(f"no {seq}" * 500))
        live.fired(seq + 1)
    fail(live, 4, ValueError("the last"))
    assert live.output == [
        [1, 0, ("no 0" * 500)[:512], 1000],
        [2, 0, ("no 2" * 500)[:512], 2000],
        [3, 0, "the last", 0],
    ]
    check_replays(live)


def test_the_last_ten_attempts_are_told() -> None:
    async def parents(ctx: Ctx) -> None:
        await ctx.call_sub_orchestrator("c", retry=RetryPolicy(timedelta(seconds=1), 13))

    live = Live(parents)
    live.start()
    for seq in range(0, 24, 2):
        fail(live, seq, FailureDetails("E"))
        live.fired(seq + 1)
    fail(live, 24, FailureDetails("E"))
    inner = live.failure if live.failure.attempts else live.failure.inner
    assert inner is not None
    assert [each.number for each in inner.attempts] == list(range(4, 14))


def test_without_a_policy_nothing_is_told_of_attempts() -> None:
    async def parents(ctx: Ctx) -> Any:
        task = ctx.call_sub_orchestrator("c")
        with pytest.raises(TaskFailedError) as caught:
            await task
        return len(caught.value.details.attempts)

    live = Live(parents)
    live.start()
    fail(live, 0, RetryAfter(1))
    assert (live.output, dues(live)) == (0, [])


@pytest.mark.parametrize("bad", ["", "  ", "a\nb", "\x00", "a\x85", "x" * 257, "\ud800", None, 3])
def test_an_event_is_sent_under_a_name_that_a_client_may_use_too(bad: Any) -> None:
    async def sends(ctx: Ctx) -> None:
        ctx.send_event("other", bad)

    live = Live(sends)
    live.start()
    assert live.failure.error_type == "builtins.ValueError"
    assert f"{bad!r:.300} cannot be the name of an event" in live.failure.message


@pytest.mark.parametrize("good", ["Paid", "x" * 100, "für Öl / 2 #?", "@a"])
def test_good_names_of_events_are_sent(good: str) -> None:
    async def sends(ctx: Ctx) -> str:
        ctx.send_event("other", good)
        return "sent"

    live = Live(sends)
    live.start()
    assert live.output == "sent"
