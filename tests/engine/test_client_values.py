"""What the client refuses before it sends anything, and what it shows of an instance. No Redis."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from celeriac.celery_app.client import validation
from celeriac.celery_app.client.driving import Pause
from celeriac.celery_app.client.state import (
    OrchestrationFailedError,
    OrchestrationState,
    Status,
    iso,
    millis,
    moment,
)
from celeriac.celery_app.client.waiting import PATIENCE, check_timeout, until_ended
from celeriac.orchestrations.errors import (
    FailureDetails,
    InvalidArgumentError,
    PayloadTooLargeError,
    RedisUnavailableError,
    UnknownNameError,
)

NOW = datetime(2026, 3, 1, 9, 30, 0, 120_000, tzinfo=UTC)


def a_state(**fields: Any) -> OrchestrationState:
    given = {"id": "a", "name": "n", "status": Status.RUNNING, "created_at": NOW, "updated_at": NOW}
    return OrchestrationState(**(given | fields))


@pytest.mark.parametrize("good", ["a", "x" * 256, "order-1", "Ünïcode", "a:b.c d", "a@b", "parent:0001"])
def test_an_acceptable_id_is_returned_as_it_is(good: str) -> None:
    assert validation.check_id(good) == good


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "this one has 0"),
        ("x" * 257, "this one has 257"),
        ("@entity", "starts with '@'"),
        ("a/b", "contains '/' at position 1"),
        ("a\\b", "position 1"),
        ("ab#", "contains '#'"),
        ("a?b", r"contains '\?'"),
        ("a\nb", "position 1"),
        ("a\x85b", "position 1"),
        ("a\ud800", "not valid Unicode"),
        (7, "not int"),
    ],
)
def test_a_bad_id_is_refused_with_its_reason(bad: Any, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        validation.check_id(bad)


@pytest.mark.parametrize("bad", ["", "   ", "a\tb", "x" * 257, None, b"x"])
def test_a_bad_event_name_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="event name"):
        validation.check_name(bad, "event name")


def test_a_value_json_cannot_hold_is_refused_naming_where() -> None:
    with pytest.raises(InvalidArgumentError, match="the input cannot be written as JSON"):
        validation.encode_payload({"a": [1, object()]}, "input", 1000)
    with pytest.raises(InvalidArgumentError, match="the input"):
        validation.encode_payload(float("nan"), "input", 1000)


def test_a_payload_over_the_limit_names_size_and_limit() -> None:
    text = "ü" * 1000
    with pytest.raises(PayloadTooLargeError, match=r"the input is 2,002 bytes .* limit of 2,001 "):
        validation.encode_payload(text, "input", 2001)
    assert validation.encode_payload(text, "input", 2002) == f'"{text}"'


def test_tags_are_strings() -> None:
    assert validation.check_tags(None) == {}
    assert validation.check_tags({"customer": "7"}) == {"customer": "7"}
    with pytest.raises(InvalidArgumentError, match="value of tag 'n'"):
        validation.check_tags({"n": 7})  # pyright: ignore[reportArgumentType]  that is the point
    with pytest.raises(InvalidArgumentError, match="cannot contain '='"):
        validation.check_tags({"a=b": "x"})


def test_an_unknown_name_suggests_its_neighbours() -> None:
    known = ["backup_site", "fulfil_order", "approve_expense"]
    assert "did you mean 'fulfil_order'?" in str(
        validation.unknown_name("orchestrator", "fullfill_order", known)
    )
    assert "'backup_site'" in str(validation.unknown_name("orchestrator", "BackupSite", known))
    assert "known: approve_expense" in str(validation.unknown_name("orchestrator", "zzz", known))
    error = validation.unknown_name("orchestrator", "zzz", [])
    assert isinstance(error, UnknownNameError)
    assert "CELERIAC_APP" in str(error)


def test_a_delayed_start_in_any_time_zone_is_milliseconds() -> None:
    east = datetime(2026, 3, 1, 11, 30, 0, 120_999, tzinfo=timezone(timedelta(hours=2)))
    assert validation.due_millis(east, lambda: NOW) == millis(NOW)
    assert validation.due_millis(timedelta(seconds=-5), lambda: NOW) == millis(NOW) - 5000
    assert validation.due_millis(None, lambda: NOW) == 0
    assert moment(millis(NOW)) == NOW


def test_the_payload_has_the_fields_of_the_http_status() -> None:
    state = a_state(
        id="order-1",
        name="fulfil",
        status=Status.FAILED,
        version="2",
        input_text='{"n":1}',
        custom_text='"half"',
        failure=FailureDetails(error_type="builtins.ValueError", message="no"),
        tags={"k": "v"},
        updated_at=NOW + timedelta(seconds=1),
    )
    payload = state.to_payload()
    assert payload["instanceId"] == "order-1"
    assert payload["runtimeStatus"] == "Failed"
    assert payload["input"] == {"n": 1}
    assert payload["output"] is None
    assert payload["customStatus"] == "half"
    assert payload["createdTime"] == "2026-03-01T09:30:00.120Z"
    assert payload["lastUpdatedTime"] == "2026-03-01T09:30:01.120Z"
    assert payload["failure"]["errorType"] == "builtins.ValueError"
    assert payload["tags"] == {"k": "v"}
    assert state.to_payload(show_input=False)["input"] is None
    assert iso(NOW.astimezone(timezone(timedelta(hours=9)))) == payload["createdTime"]


@dataclass
class Receipt:
    number: int
    at: datetime


def test_output_as_rebuilds_a_type() -> None:
    state = a_state(status=Status.COMPLETED, output_text='{"number":3,"at":"2026-03-01T09:30:00Z"}')
    receipt = state.output_as(Receipt)
    assert receipt == Receipt(3, datetime(2026, 3, 1, 9, 30, tzinfo=UTC))
    assert a_state().output is None


def test_raise_if_failed_names_instance_status_and_failure() -> None:
    done = a_state(status=Status.COMPLETED)
    assert done.raise_if_failed() is done
    assert a_state().raise_if_failed().status is Status.RUNNING
    failed = a_state(status=Status.FAILED, failure=FailureDetails(error_type="x.Boom", message="bang"))
    with pytest.raises(OrchestrationFailedError, match=r"'a' \(n\) ended as Failed: x.Boom: bang") as caught:
        failed.raise_if_failed()
    assert caught.value.details == failed.failure
    with pytest.raises(OrchestrationFailedError, match="ended as Terminated: too late"):
        a_state(status=Status.TERMINATED, reason="too late").raise_if_failed()


class Clock:
    """A clock moved by the pauses of the operation under test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_waiting(timeout: float | None, looks: list[OrchestrationState | Exception]) -> tuple[Any, Clock]:
    """Drive `until_ended`: each look answers with the next item, pauses always last their full time."""
    clock = Clock()

    def read() -> Generator[Any, Any, OrchestrationState]:
        seen = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(seen, Exception):
            raise seen
        return seen
        yield  # makes it an operation

    operation = until_ended("a", read, timeout, clock=clock)
    try:
        request = next(operation)
        while True:
            assert isinstance(request, Pause)
            clock.now += request.seconds
            request = operation.send(None)
    except StopIteration as done:
        return done.value, clock


def test_waiting_returns_the_final_state() -> None:
    done = a_state(status=Status.COMPLETED)
    assert run_waiting(None, [a_state(), a_state(), done])[0] is done


def test_waiting_looks_once_more_before_it_gives_up() -> None:
    with pytest.raises(TimeoutError, match="'a' has not ended within 3 s; it is Running"):
        run_waiting(3, [a_state()])
    done = a_state(status=Status.COMPLETED)
    assert run_waiting(3, [a_state(), done])[0] is done


def test_waiting_survives_redis_being_away_but_not_for_ever() -> None:
    away = RedisUnavailableError("gone")
    done = a_state(status=Status.COMPLETED)
    assert run_waiting(None, [a_state(), away, away, done])[0] is done
    with pytest.raises(RedisUnavailableError):
        run_waiting(None, [away])
    with pytest.raises(TimeoutError, match="out of reach"):
        run_waiting(PATIENCE / 2, [away])


@pytest.mark.parametrize("bad", [-1, "5", float("nan"), True, timedelta(seconds=-1)])
def test_a_bad_timeout_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="timeout"):
        check_timeout(bad)


def test_a_timeout_may_be_a_timedelta() -> None:
    assert check_timeout(timedelta(minutes=1)) == 60.0
    assert check_timeout(None) is None
