"""What follows a failed attempt. Pure, but for the author's handler."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from celeriac.celery_app.messages import Notes, Step, StepHeader, TaskId
from celeriac.celery_app.retrying import UNKNOWN_FOR, Again, judge
from celeriac.celery_app.store.flights import MAX_LOST
from celeriac.orchestrations.errors import (
    ActivityWorkerLostError,
    CodecError,
    FailureDetails,
    PayloadTooLargeError,
    UnknownActivityError,
    failure_from,
)
from celeriac.orchestrations.history import ActivityOptions
from celeriac.orchestrations.retry import RetryContext, RetryPolicy

NO = failure_from(ValueError("no"))
NOW = 1_700_000_000_000


def step(attempt: int = 1, notes: Notes | None = None, retry: str = "", **policy: Any) -> Step:
    text = RetryPolicy(timedelta(seconds=1), **policy).to_json() if policy else retry
    header = StepHeader(ActivityOptions(retry=text), NOW, 0, notes or Notes())
    return Step(TaskId("0123456789abcdef", 1, attempt, "a"), "act", "[[],{}]", header)


def never(context: RetryContext) -> bool:
    return False


def raising(context: RetryContext) -> bool:
    raise RuntimeError("the handler is broken")


def slow(context: RetryContext) -> bool:
    time.sleep(20)
    return False


def test_without_a_policy_a_failure_is_the_end() -> None:
    assert judge(step(), NO, NOW) is None


def test_the_policy_counts_attempts() -> None:
    assert judge(step(1, max_number_of_attempts=2), NO, NOW) == Again(1000, Notes())
    assert judge(step(2, max_number_of_attempts=2), NO, NOW) is None


def test_a_lost_process_is_tried_again_without_a_policy_and_has_a_limit() -> None:
    lost = failure_from(ActivityWorkerLostError("gone"))
    current, delays = step(), []
    while again := judge(current, lost, NOW):
        delays.append(again.delay)
        current = step(current.task.attempt + 1, again.notes)
    assert delays == [1000, 2000, 4000]
    assert len(delays) == MAX_LOST


def test_the_policy_judges_the_deaths_beyond_the_limit() -> None:
    lost = failure_from(ActivityWorkerLostError("gone"))
    current, attempts = step(max_number_of_attempts=3), 1
    while again := judge(current, lost, NOW, max_lost=1):
        attempts += 1
        current = step(current.task.attempt + 1, again.notes, max_number_of_attempts=3)
    assert attempts == 4  # the free one, and three by the policy


def test_attempts_whose_process_died_do_not_count_against_the_policy() -> None:
    again = judge(step(3, Notes(lost=2, spared=2), max_number_of_attempts=2), NO, NOW)
    assert again == Again(1000, Notes(lost=0, spared=2))


def test_an_unknown_activity_is_tried_for_a_minute() -> None:
    unknown = failure_from(UnknownActivityError("nobody"))
    again = judge(step(), unknown, NOW)
    assert again is not None
    assert again.notes == Notes(spared=1, unknown=NOW)
    assert judge(step(2, again.notes), unknown, NOW + UNKNOWN_FOR - 1) is not None
    assert judge(step(2, again.notes), unknown, NOW + UNKNOWN_FOR) is None


@pytest.mark.parametrize("error", [CodecError("no JSON"), PayloadTooLargeError("9 MB")])
def test_what_no_repetition_can_cure_is_not_repeated(error: Exception) -> None:
    assert judge(step(max_number_of_attempts=5), failure_from(error), NOW) is None


def test_a_policy_that_cannot_be_read_is_none() -> None:
    assert judge(step(retry="{nonsense"), NO, NOW) is None


def test_a_handler_for_which_no_thread_can_be_started_loses_no_outcome() -> None:
    before = threading.stack_size(1 << 50)
    try:
        assert judge(step(max_number_of_attempts=3, handler=never), NO, NOW) is not None
    finally:
        threading.stack_size(before)


def test_the_handler_is_asked_but_cannot_lose_or_delay_the_outcome(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert judge(step(max_number_of_attempts=3, handler=never), NO, NOW) is None
    assert judge(step(max_number_of_attempts=3, handler=raising), NO, NOW) is not None
    assert "the handler is broken" in caplog.text
    began = time.monotonic()
    assert judge(step(max_number_of_attempts=3, handler=slow), NO, NOW) is not None
    assert time.monotonic() - began < 4
    assert judge(step(max_number_of_attempts=3, handler="no.such:handler"), NO, NOW) is not None


def test_an_asked_delay_needs_no_handler() -> None:
    asked = timedelta(seconds=7)
    assert judge(step(max_number_of_attempts=3, handler=never), FailureDetails("x"), NOW, asked) == Again(
        7000, Notes()
    )
