"""Retries: a policy says what is tried again, how often and when. A waiting retry costs no process."""

from __future__ import annotations

from datetime import timedelta

from celeriac.activities import ActivityContext, activity
from celeriac.orchestrations import (
    NonRetryableError,
    OrchestrationContext,
    RetryAfter,
    RetryContext,
    RetryPolicy,
    orchestrator,
    testing,
)

SECOND = timedelta(seconds=1)
POLICY = RetryPolicy(first_retry_interval=SECOND, max_number_of_attempts=5, backoff_coefficient=2)


class CardRefusedError(NonRetryableError):
    """Raising a NonRetryableError ends it at once, whatever the policy says."""


@activity(retry=POLICY)
def pay(card: str) -> str:
    attempt = ActivityContext.current().attempt
    if card == "refused":
        raise CardRefusedError("the bank says no")
    if card == "busy" and attempt == 1:
        raise RetryAfter(90, "too many requests")
    if attempt < 4:
        raise ConnectionError("no answer")
    return f"paid at attempt {attempt}"


@orchestrator
async def checkout(ctx: OrchestrationContext, card: str) -> str:
    return await ctx.call_activity(pay, card)


def test_a_transient_failure_is_tried_again() -> None:
    result = testing.run(checkout, "good")
    assert result.output == "paid at attempt 4"
    assert [call.at for call in result.calls] == [0 * SECOND, 1 * SECOND, 3 * SECOND, 7 * SECOND]


def test_a_permanent_failure_is_not() -> None:
    result = testing.run(checkout, "refused")
    assert result.status == "Failed"
    assert result.failure is not None
    assert result.failure.is_caused_by(CardRefusedError)
    assert len(result.calls) == 1


def test_an_activity_may_say_when() -> None:
    assert [call.at.total_seconds() for call in testing.run(checkout, "busy").calls] == [0, 90, 92, 96]


# A handler tells transient from permanent errors. It is named in the policy, so it must be importable.


def patient(context: RetryContext) -> bool | timedelta:
    if context.failure.is_caused_by(ConnectionError):
        return timedelta(hours=context.attempt)
    return False


@orchestrator
async def patient_checkout(ctx: OrchestrationContext, card: str) -> str:
    policy = RetryPolicy(SECOND, handler=f"{__name__}:patient")
    return await ctx.call_activity(pay.with_options(retry=policy), card)


def test_a_handler_decides() -> None:
    assert testing.run(patient_checkout, "good").elapsed == timedelta(hours=1 + 2 + 3)
