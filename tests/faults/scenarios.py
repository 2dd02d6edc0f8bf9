"""The scenarios of the crash sweep, and the orchestrators and activities they run.

Every step of a client may be repeated, as it must be by anyone who does not know whether it was applied:
starts carry an idempotency key, events a dedup key. Outputs are functions of inputs alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from stage import Do, Scenario, Until

from celeriac.activities import ActivityRegistry, activity
from celeriac.celery_app.client.sync import Client
from celeriac.orchestrations import (
    OrchestrationCancelledError,
    RetryPolicy,
    TaskFailedError,
    when_all,
    when_any,
)
from celeriac.orchestrations.errors import InstanceEndedError, InstanceNotFoundError
from celeriac.orchestrations.registry import Registry, orchestrator
from celeriac.orchestrations.triggers import QueueTrigger

REGISTRY, ACTIVITIES = Registry(), ActivityRegistry()
EFFECTS: list[tuple[str, str]] = []

flow: Any = orchestrator(registry=REGISTRY)
act: Any = activity(registry=ACTIVITIES)
second = timedelta(seconds=1)


# --- activities ---


@act
def add(a: int, b: int) -> int:
    EFFECTS.append(("add", f"{a}+{b}"))
    return a + b


@act
def note(word: str) -> str:
    EFFECTS.append(("note", word))
    return word


@act
def big(size: int) -> str:
    EFFECTS.append(("big", str(size)))
    return "x" * size


class Busy(Exception):
    """Comes and goes."""


@activity(registry=ACTIVITIES, retry=RetryPolicy(second, 5, backoff_coefficient=2.0))
def third_time(key: str) -> str:
    EFFECTS.append(("third_time", key))
    if EFFECTS.count(("third_time", key)) < 3:
        raise Busy(key)
    return key


@act
def odd(n: int) -> int:
    EFFECTS.append(("odd", str(n)))
    if n % 2 == 0:
        raise ValueError(f"{n} is even")
    return n


# --- orchestrators ---


@flow
async def sequence(ctx: Any, n: int) -> int:
    for i in range(3):
        n = await ctx.call_activity(add, n, i)
    return n


@flow
async def fan_out(ctx: Any, width: int) -> int:
    return sum(await when_all([ctx.call_activity(add, i, 1) for i in range(width)]))


@flow
async def retrying(ctx: Any, key: str) -> Any:
    got = await ctx.call_activity(third_time, key)
    try:
        await ctx.map(odd, range(4))
    except TaskFailedError as error:
        return [got, sorted(failure.message for failure in error.failures)]
    return "not reached"


@flow
async def timer(ctx: Any, seconds: int) -> str:
    await ctx.create_timer(timedelta(seconds=seconds))
    await ctx.call_activity(note, "between")
    await ctx.create_timer(timedelta(seconds=seconds))
    return "woken twice"


@flow
async def event(ctx: Any, _: Any) -> Any:
    first = await ctx.wait_for_external_event("go")
    late = ctx.create_timer(timedelta(minutes=60))
    answer = ctx.wait_for_external_event("answer")
    winner = await when_any([late, answer])
    late.cancel()
    return [first, await winner if winner is answer else "late"]


@flow
async def child(ctx: Any, n: int) -> int:
    if n < 0:
        raise ValueError("negative")
    return await ctx.call_activity(add, n, 100)


@flow
async def parent(ctx: Any, n: int) -> Any:
    several = await when_all([ctx.call_sub_orchestrator("child", n + i) for i in range(2)])
    try:
        await ctx.call_sub_orchestrator("child", -1)
    except TaskFailedError as error:
        return [several, str(error.details.message)]
    return several


@flow
async def eternal(ctx: Any, state: dict[str, int]) -> Any:
    bonus = await ctx.wait_for_external_event("bonus")
    total = await ctx.call_activity(add, state["total"], bonus)
    if state["round"] < 2:
        ctx.continue_as_new({"round": state["round"] + 1, "total": total})
    return total


@flow
async def saga(ctx: Any, _: Any) -> str:
    done: list[str] = []
    try:
        for word in ("book", "pay"):
            await ctx.call_activity(note, word)
            done.append(word)
        ctx.set_custom_status("both done")
        await ctx.wait_for_external_event("never")
    except OrchestrationCancelledError:
        for word in reversed(done):
            await ctx.call_activity(note, f"undo {word}")
        raise
    return "not reached"


@flow
async def pausable(ctx: Any, n: int) -> int:
    n = await ctx.call_activity(add, n, 1)
    n = await ctx.call_activity(add, n, await ctx.wait_for_external_event("more"))
    return await ctx.call_activity(add, n, 1)


@flow
async def long(ctx: Any, steps: int) -> int:
    n = 0
    for i in range(steps):
        n = await ctx.call_activity(add, n, i)
    return n


@flow
async def patient(ctx: Any, _: Any) -> str:
    await ctx.call_sub_orchestrator("sleeper", instance_id="kid")
    return "not reached"


@flow
async def sleeper(ctx: Any, _: Any) -> str:
    await ctx.call_activity(note, "asleep")
    await ctx.create_timer(timedelta(days=1))
    return "not reached"


@flow
async def bulky(ctx: Any, size: int) -> int:
    text = await ctx.call_activity(big, size)
    back = await ctx.call_sub_orchestrator("echo", text)
    return len(back)


@flow
async def echo(ctx: Any, text: str) -> str:
    return text


@activity(registry=ACTIVITIES, schedule_to_start=timedelta(seconds=4))
def nobody(word: str) -> str:
    return word


@flow
async def unserved(ctx: Any, _: Any) -> str:
    try:
        return await ctx.call_activity(nobody, "x")
    except TaskFailedError as error:
        return error.details.error_type


# --- steps ---


def start(name: str, input: Any = None, id: str = "a") -> Do:
    """Start under an id, once however often it is asked for."""
    return Do(lambda c: c.start(name, input, instance_id=id, idempotency_key=f"start {id}"))


@contextlib.contextmanager
def _already() -> Iterator[None]:
    with contextlib.suppress(InstanceEndedError, InstanceNotFoundError):
        yield


def tell(what: Callable[[Client], object]) -> Do:
    """Something that may have been done before."""

    def do(client: Client) -> None:
        with _already():
            what(client)

    return Do(do)


def raised(name: str, data: Any, id: str = "a", key: str = "") -> Do:
    """Raise an event, once."""
    return tell(lambda c: c.raise_event(id, name, data, dedup_key=key or name))


def ended(*ids: str) -> Until:
    """Until these have ended."""
    return Until(lambda stage: stage.ended(*ids))


def has_done(*effects: tuple[str, str]) -> Until:
    """Until activities have done all this."""
    return Until(lambda stage: set(effects) <= set(EFFECTS))


SCENARIOS = [
    Scenario("sequence", [start("sequence", 1), ended("a")], ["a"]),
    Scenario("fan-out 20", [start("fan_out", 20), ended("a")], ["a"], settings={"window": 8}),
    Scenario("retry", [start("retrying", "k"), ended("a")], ["a"]),
    Scenario("timer", [start("timer", 5), ended("a")], ["a"]),
    Scenario("event", [start("event"), raised("go", 1), raised("answer", {"b": 2}), ended("a")], ["a"]),
    Scenario("sub-orchestration", [start("parent", 5), ended("a")], ["a"]),
    Scenario(
        "continue-as-new",
        [
            start("eternal", {"round": 0, "total": 0}),
            *(raised("bonus", n, key=f"b{n}") for n in (1, 2, 3)),
            ended("a"),
        ],
        ["a"],
    ),
    Scenario(
        "cancel with compensation",
        [
            start("saga"),
            Until(lambda stage: stage.field("a", "custom")),
            tell(lambda c: c.cancel("a", "no")),
            ended("a"),
        ],
        ["a"],
    ),
    Scenario(
        "suspend and resume",
        [
            start("pausable", 1),
            tell(lambda c: c.suspend("a", "wait")),
            raised("more", 10),
            Until(lambda stage: stage.status("a") == "Suspended"),
            tell(lambda c: c.resume("a")),
            ended("a"),
        ],
        ["a"],
    ),
    Scenario(
        "queue trigger",
        [Until(lambda stage: stage.all_ended(3))],
        [],
        messages=["1", "2", "3"],
        trigger=QueueTrigger("orders", orchestrator="sequence"),
    ),
    Scenario("long history", [start("long", 30), ended("a")], ["a"], settings={"cache_size": 0}),
    Scenario(
        "purge",
        [
            start("patient"),
            has_done(("note", "asleep")),
            Until(lambda stage: stage.status("kid")),  # after a rollback what it did may be there without it
            tell(lambda c: c.terminate("a", "enough")),
            Until(lambda stage: stage.ended("a", "kid") if stage.status("a") else True),
            tell(lambda c: c.purge("a")),
            start("sequence", 1, "b"),
            ended("b"),
        ],
        ["b"],
    ),
    Scenario("large payloads", [start("bulky", 5000), ended("a")], ["a"], settings={"aside_over": 1024}),
    Scenario(
        "nobody serves it",
        [
            start("unserved"),
            ended("a"),
            Until(lambda stage: stage.serve()),
            Until(lambda stage: not stage.queued()),
        ],
        ["a"],
        serve=False,
    ),
]
