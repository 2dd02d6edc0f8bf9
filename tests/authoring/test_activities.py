"""`@activity`: still a plain function, with options that ride on the reference."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from celeriac.activities import ACTIVITIES, INJECTED, Activity, ActivityContext, ActivityRegistry, activity
from celeriac.orchestrations import AuthoringError, RegistrationError, RetryPolicy, codec

REGISTRY = ActivityRegistry()
RETRY = RetryPolicy(timedelta(seconds=1), 3)


@activity(registry=REGISTRY)
def add(a: int, b: int = 1) -> int:
    """Adds."""
    return a + b


@activity(registry=REGISTRY, name="later", queue="slow", timeout=timedelta(minutes=1))
async def add_later(a: int) -> int:
    return a + 1


@activity(registry=REGISTRY)
def who(prefix: str, context: ActivityContext = INJECTED, *, suffix: str = "") -> str:
    return f"{prefix}{context.instance_id}{suffix}"


@activity(registry=REGISTRY)
def first(context: ActivityContext, a: int, *rest: int) -> list[Any]:
    return [context.instance_id, a, *rest]


@activity(registry=REGISTRY)
def keyword(a: int, *, context: ActivityContext) -> list[Any]:
    return [context.instance_id, a]


def test_it_is_still_the_function() -> None:
    assert add(1) == 2
    assert add(1, b=4) == 5
    assert asyncio.run(add_later(1)) == 2
    assert add.name == "add"
    assert add.__doc__ == "Adds."
    assert not add.is_async
    assert add_later.is_async


def test_it_is_registered_by_name() -> None:
    assert REGISTRY.get("add") is add
    assert REGISTRY.get("later") is add_later
    assert REGISTRY.get("nothing") is None
    assert "later" in REGISTRY.names()
    assert ACTIVITIES.get(add.name) is not add  # another test's may have that name there


def test_options_ride_on_the_reference() -> None:
    tuned = add.with_options(retry=RETRY, queue="fast", priority=7, heartbeat=2.5, tags={"a": "b"})
    again = tuned.with_options(queue="", schedule_to_start=1)
    assert isinstance(tuned, Activity)
    assert (tuned.options.queue, tuned.options.priority, tuned.options.heartbeat) == ("fast", 7, 2500)
    assert RetryPolicy.from_json(tuned.options.retry) == RETRY
    assert tuned.options.tags == {"a": "b"}
    assert (again.options.queue, again.options.priority, again.options.schedule_to_start) == ("", 7, 1000)
    assert again.with_options(retry=None).options.retry == ""
    assert (add.options.queue, add_later.options.queue, add_later.options.timeout) == ("", "slow", 60_000)
    assert tuned.function is add.function
    assert add.with_options(name="plus").name == "plus"
    assert tuned(2) == 3


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("retry", 3),
        ("queue", "two words"),
        ("queue", "x" * 129),
        ("priority", 10),
        ("priority", True),
        ("timeout", 0),
        ("timeout", timedelta(seconds=-1)),
        ("schedule_to_start", "soon"),
        ("heartbeat", float("inf")),
        ("tags", {"a": 1}),
    ],
)
def test_a_wrong_option_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{option} must "):
        add.with_options(**{option: value})
    with pytest.raises(ValueError, match=f"^{option} must "):
        activity(**{option: value})


def test_an_activity_of_an_activity_has_its_own_name_and_options() -> None:
    other = activity(registry=REGISTRY, name="other", queue="q")(add)
    assert (other.name, other.options.queue, other(1, 2)) == ("other", "q", 3)
    assert codec.decode_call("[[1],{}]", other.function) == ([1], {})


def test_two_activities_of_one_name_are_refused_naming_both_places() -> None:
    registry = ActivityRegistry()

    @activity(registry=registry, name="copy")
    def one() -> None: ...

    with pytest.raises(RegistrationError, match=r"'copy' is defined twice: .*:\d+ and .*:\d+; give one"):

        @activity(registry=registry, name="copy")
        def two() -> None: ...

    assert registry.get("copy") is one


def test_the_same_place_may_be_imported_again() -> None:
    registry = ActivityRegistry()

    def define(result: int) -> Activity[[], int]:
        @activity(registry=registry)
        def again() -> int:
            return result

        return again

    define(1)
    newer = define(2)
    assert registry.get("again") is newer


def test_what_cannot_be_an_activity() -> None:
    def generator() -> Iterator[int]:
        yield 1

    with pytest.raises(AuthoringError, match=r"generator cannot be an activity"):
        activity(registry=REGISTRY)(generator)
    with pytest.raises(AuthoringError, match=r"'' cannot name an activity"):
        activity(registry=REGISTRY, name="")(len)


def test_the_context_is_not_among_the_callers_arguments() -> None:
    for reference in (who, first, keyword):
        assert "context" not in reference.signature_.shown
    assert codec.decode_call('[["a"],{"suffix":"z"}]', who.function) == (["a"], {"suffix": "z"})


def test_a_plain_call_gets_a_stand_in_for_the_context() -> None:
    mine = ActivityContext(instance_id="mine", execution_id="e", seq=1)
    assert who("I am ") == "I am local"
    assert who("I am ", suffix="!") == "I am local!"
    assert who("I am ", mine) == "I am mine"
    assert first(mine, 2) == ["mine", 2]
    assert keyword(2, context=mine) == ["mine", 2]
    with mine.active():
        assert who("") == "mine"
        assert ActivityContext.current() is mine
    with pytest.raises(RuntimeError, match="no activity is running here"):
        ActivityContext.current()
