"""The retry policy: checked when made, the same delay everywhere, no surprise at large numbers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.orchestrations.errors import (
    AuthoringError,
    CodecError,
    FailureDetails,
    NonRetryableError,
    failure_from,
)
from celeriac.orchestrations.retry import LONGEST_DELAY, RetryContext, RetryPolicy, decide

SECOND = timedelta(seconds=1)
FAILURE = failure_from(ConnectionResetError("gone"))


def handler(context: RetryContext) -> bool:
    return context.attempt < 3


class Handlers:
    @staticmethod
    def nested(context: RetryContext) -> timedelta:
        return context.elapsed


class CardDeclinedError(NonRetryableError):
    pass


def ask(
    policy: RetryPolicy | None, attempt: int = 1, failure: FailureDetails = FAILURE, **more: Any
) -> int | None:
    settings: dict[str, Any] = {"first_at": 0, "now": 0, "seed": "s", **more}
    return decide(policy, failure, attempt, **settings)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("first_retry_interval", {"first_retry_interval": 5}),
        ("first_retry_interval", {"first_retry_interval": timedelta(0)}),
        ("max_number_of_attempts", {"max_number_of_attempts": 0}),
        ("max_number_of_attempts", {"max_number_of_attempts": 1.5}),
        ("max_number_of_attempts", {"max_number_of_attempts": True}),
        ("backoff_coefficient", {"backoff_coefficient": 0.5}),
        ("backoff_coefficient", {"backoff_coefficient": float("nan")}),
        ("backoff_coefficient", {"backoff_coefficient": float("inf")}),
        ("max_retry_interval", {"max_retry_interval": timedelta(milliseconds=1)}),
        ("max_retry_interval", {"max_retry_interval": 3}),
        ("retry_timeout", {"retry_timeout": timedelta(seconds=-1)}),
        ("jitter", {"jitter": 1.1}),
        ("jitter", {"jitter": "much"}),
        ("retry_on", {"retry_on": ValueError}),
        ("retry_on", {"retry_on": "ValueError"}),
        ("do_not_retry_on", {"do_not_retry_on": (int,)}),
        ("handler", {"handler": lambda context: True}),
        ("handler", {"handler": "no_colon"}),
        ("handler", {"handler": 3}),
    ],
)
def test_a_wrong_field_is_refused_by_name(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{field} "):
        RetryPolicy(**{"first_retry_interval": SECOND, **values})


def test_a_handler_that_no_worker_could_import_is_refused() -> None:
    def local(context: RetryContext) -> bool:
        return True

    async def coroutine(context: RetryContext) -> bool:
        return True

    with pytest.raises(ValueError, match=r"is defined inside another function, so a worker cannot import it"):
        RetryPolicy(SECOND, handler=local)
    with pytest.raises(ValueError, match=r"is a lambda"):
        RetryPolicy(SECOND, handler=lambda context: True)
    coroutine.__qualname__ = "coroutine"
    with pytest.raises(ValueError, match=r"is async"):
        RetryPolicy(SECOND, handler=coroutine)  # pyright: ignore[reportArgumentType] - planted


def test_a_handler_is_found_by_its_name() -> None:
    policy = RetryPolicy.from_json(RetryPolicy(SECOND, handler="test_support:handler").to_json())
    assert policy.handler == "test_support:handler"
    assert RetryPolicy(SECOND, handler=Handlers.nested).handler == f"{__name__}:Handlers.nested"
    assert RetryPolicy(SECOND, handler="json:dumps").load_handler() is __import__("json").dumps
    assert RetryPolicy(SECOND).load_handler() is None
    with pytest.raises(AuthoringError, match="import no_such_module"):
        RetryPolicy(SECOND, handler="no_such_module:f").load_handler()
    with pytest.raises(AuthoringError, match="json has no function nothing"):
        RetryPolicy(SECOND, handler="json:nothing").load_handler()


def test_a_policy_survives_the_way_through_json() -> None:
    policy = RetryPolicy(
        timedelta(milliseconds=250),
        7,
        1.5,
        timedelta(minutes=1),
        timedelta(hours=1),
        0.25,
        (ConnectionError, "my.module.Error"),
        [ValueError],
        "json:dumps",
    )
    assert RetryPolicy.from_json(policy.to_json()) == policy
    assert RetryPolicy.from_json(RetryPolicy(SECOND).to_json()) == RetryPolicy(SECOND)
    assert hash(policy) == hash(RetryPolicy.from_json(policy.to_json()))


def test_delays_grow_and_are_capped() -> None:
    policy = RetryPolicy(SECOND, backoff_coefficient=2, max_retry_interval=timedelta(seconds=10))
    assert [ask(policy, attempt) for attempt in range(1, 7)] == [1000, 2000, 4000, 8000, 10_000, 10_000]
    assert ask(policy, 10**9) == 10_000
    assert ask(RetryPolicy(SECOND, backoff_coefficient=1e300), 10**12) == LONGEST_DELAY
    assert ask(RetryPolicy(SECOND), 10**12) == 1000


def test_attempts_and_time_run_out() -> None:
    assert ask(RetryPolicy(SECOND, 3), 2) == 1000
    assert ask(RetryPolicy(SECOND, 3), 3) is None
    assert ask(RetryPolicy(SECOND, 1), 1) is None
    assert ask(None) is None
    limited = RetryPolicy(SECOND, retry_timeout=timedelta(seconds=5))
    assert ask(limited, 9, first_at=1_000, now=5_999) == 1000
    assert ask(limited, 9, first_at=1_000, now=6_000) is None


def test_only_what_the_policy_names_is_retried() -> None:
    assert ask(RetryPolicy(SECOND, retry_on=[ConnectionError])) == 1000  # a base class
    assert ask(RetryPolicy(SECOND, retry_on=["ConnectionResetError"])) == 1000  # a bare name
    assert ask(RetryPolicy(SECOND, retry_on=[ValueError])) is None
    assert ask(RetryPolicy(SECOND, do_not_retry_on=[OSError])) is None
    assert ask(RetryPolicy(SECOND, retry_on=[OSError], do_not_retry_on=[ConnectionResetError])) is None


def test_a_cause_counts() -> None:
    try:
        try:
            raise ConnectionResetError("gone")
        except ConnectionResetError as error:
            raise RuntimeError("no payment") from error
    except RuntimeError as error:
        failure = failure_from(error)
    assert ask(RetryPolicy(SECOND, retry_on=[ConnectionError]), failure=failure) == 1000


def test_what_never_helps_is_not_retried() -> None:
    assert ask(RetryPolicy(SECOND), failure=failure_from(CardDeclinedError("no"))) is None
    assert ask(RetryPolicy(SECOND), failure=failure_from(CodecError("$: no"))) is None


def test_retry_after_overrules_filters_but_not_the_number_of_attempts() -> None:
    asked = timedelta(seconds=42)
    assert (
        ask(RetryPolicy(SECOND, 3, retry_on=[ValueError]), asked_delay=asked, handler_verdict=False) == 42_000
    )
    assert ask(RetryPolicy(SECOND, 3), 3, asked_delay=asked) is None
    assert ask(None, asked_delay=asked) is None
    assert ask(RetryPolicy(SECOND), asked_delay=-asked) == 0


def test_the_handler_has_its_say() -> None:
    policy = RetryPolicy(SECOND, retry_on=[OSError])
    assert ask(policy, handler_verdict=True) == 1000
    assert ask(policy, handler_verdict=False) is None
    assert ask(policy, handler_verdict=timedelta(seconds=7)) == 7000
    assert ask(policy, handler_verdict=timedelta(seconds=7), failure=failure_from(KeyError())) is None


@given(st.integers(1, 10**6), st.floats(1, 1e6), st.integers(1, 10**9), st.floats(0, 1), st.text())
def test_a_delay_is_pure_and_bounded(
    attempt: int, coefficient: float, first: int, jitter: float, seed: str
) -> None:
    policy = RetryPolicy(timedelta(milliseconds=first), None, coefficient, jitter=jitter)
    delay = ask(policy, attempt, seed=seed)
    assert delay == ask(RetryPolicy.from_json(policy.to_json()), attempt, seed=seed)
    assert delay is not None
    assert 0 <= delay <= LONGEST_DELAY
    assert delay >= int(min(first, LONGEST_DELAY) * (1 - jitter)) - 1


def test_jitter_spreads_the_instances() -> None:
    policy = RetryPolicy(timedelta(seconds=100), jitter=0.5)
    delays = {ask(policy, seed=f"instance-{n}") for n in range(100)}
    assert len(delays) > 90
    assert all(50_000 <= delay <= 100_000 for delay in delays if delay is not None)
