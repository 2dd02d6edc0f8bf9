"""Human interaction: wait for an event or for a deadline, for as long as it takes; nothing runs meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from celeriac.orchestrations import OrchestrationContext, orchestrator, testing, when_any

DAY = timedelta(days=1)


@dataclass
class Answer:
    approved: bool
    by: str


@orchestrator
async def approval(ctx: OrchestrationContext) -> str:
    ctx.set_custom_status("waiting for an answer")
    answer = ctx.wait_for_external_event("Answer", Answer)
    deadline = ctx.create_timer(30 * DAY)
    if await when_any([answer, deadline]) is deadline:
        return "escalated"
    deadline.cancel()
    return f"{'approved' if answer.result.approved else 'rejected'} by {answer.result.by}"


def test_an_answer_after_29_days() -> None:
    answer = testing.event("Answer", Answer(True, "Kim"), after=29 * DAY)
    result = testing.run(approval, events=[answer])
    assert result.output == "approved by Kim"
    assert result.elapsed == 29 * DAY  # in the test: milliseconds


def test_no_answer() -> None:
    assert testing.run(approval).output == "escalated"
    still_waiting = testing.run(approval, until=DAY)
    assert (still_waiting.status, still_waiting.custom_status) == ("Running", "waiting for an answer")


# The short form has the time-out inside.


@orchestrator
async def short_approval(ctx: OrchestrationContext) -> bool:
    return await ctx.wait_for_external_event("Answer", bool, timeout=30 * DAY, default=False)


def test_the_short_form() -> None:
    assert testing.run(short_approval, events=[testing.event("answer", True)]).output is True
    assert testing.run(short_approval).output is False


# An event that comes before anybody waits for it is kept.


@orchestrator
async def late_listener(ctx: OrchestrationContext) -> list[int]:
    await ctx.create_timer(DAY)
    return [await ctx.wait_for_external_event("Number", int) for _ in range(2)]


def test_events_are_kept_in_order() -> None:
    early = [testing.event("Number", 1), testing.event("Number", 2)]
    assert testing.run(late_listener, events=early).output == [1, 2]
