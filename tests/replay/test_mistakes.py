"""What comes of an author's mistakes, and how author code is let go that does not want to."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest
from world import Boom, Live, kinds

from celeriac.orchestrations import OrchestrationContext, when_all
from celeriac.orchestrations.history import (
    TaskCompleted,
)
from celeriac.orchestrations.turn import (
    Waiting,
)

Ctx = OrchestrationContext


# --- mistakes of the author --------------------------------------------------------------------


async def sleeps_with_asyncio(ctx: Ctx) -> None:
    await asyncio.sleep(1)


async def awaits_asyncio(ctx: Ctx) -> None:
    await asyncio.sleep(0)


def yields_a_number_first(ctx: Ctx) -> Generator[Any, Any, None]:
    yield 42


def yields_a_coroutine(ctx: Ctx) -> Generator[Any, Any, None]:
    async def helper() -> None: ...

    yield helper()


def yields_nothing(ctx: Ctx) -> Generator[Any, Any, None]:
    while True:
        with contextlib.suppress(Exception):
            yield


async def gathers_coroutines(ctx: Ctx) -> None:
    async def helper() -> None: ...

    await when_all([helper()])  # type: ignore[list-item]  # the mistake under test


async def awaits_a_task_of_another(ctx: Ctx) -> None:
    other = Live(waits_for_x)
    other.start()
    awaited = other.execution._driver.awaited
    assert awaited is not None
    await awaited


async def waits_for_x(ctx: Ctx) -> Any:
    return await ctx.wait_for_external_event("x")


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (sleeps_with_asyncio, ["'sleeps_with_asyncio'", "asyncio", "create_timer"]),
        (awaits_asyncio, ["'awaits_asyncio'", "NoneType", "create_timer"]),
        (yields_a_number_first, ["'yields_a_number_first'", "int 42"]),
        (yields_a_coroutine, ["helper", "yield from"]),
        (yields_nothing, ["'yields_nothing'", "NoneType None"]),
        (gathers_coroutines, ["item 0", "coroutine", "helper"]),
        (awaits_a_task_of_another, ["belongs to another orchestration"]),
    ],
)
def test_awaiting_what_is_no_task_fails_with_a_name(mistake: Any, words: list[str]) -> None:
    live = Live(mistake)
    live.start()
    assert live.failure.error_type == "builtins.TypeError"
    for word in words:
        assert word in live.failure.message
    if mistake is not yields_nothing:  # that one hid the place
        assert f"in {mistake.__name__}" in live.failure.stack_trace


def test_awaiting_a_number_is_python_s_own_error() -> None:
    async def awaits_a_number(ctx: Ctx) -> None:
        await 42  # type: ignore[misc]  # the mistake under test

    live = Live(awaits_a_number)
    live.start()
    assert "int" in live.failure.message


def test_an_output_that_is_not_json_is_named() -> None:
    async def returns_a_lock(ctx: Ctx) -> Any:
        return {"ok": 1, "lock": contextlib.nullcontext()}

    live = Live(returns_a_lock)
    live.start()
    assert live.failure.error_type.endswith("CodecError")
    for word in ("output", "'returns_a_lock'", "$.lock", "nullcontext"):
        assert word in live.failure.message


@dataclass
class Order:
    id: int


def test_an_input_that_does_not_fit_is_named() -> None:
    async def takes_an_order(ctx: Ctx, order: Order) -> int:
        return order.id

    live = Live(takes_an_order, {"id": "one"})
    assert kinds(live.start()) == ["ExecutionStarted", "ExecutionFailed"]
    for word in ("input", "'takes_an_order'", "$.id"):
        assert word in live.failure.message
    good = Live(takes_an_order, {"id": 1})
    good.start()
    assert good.output == 1


def test_no_input_leaves_the_default() -> None:
    async def with_default(ctx: Ctx, root: str = "/srv") -> list[Any]:
        return [root, ctx.get_input()]

    live = Live(with_default)
    live.start()
    assert live.output == ["/srv", None]


def test_the_trace_of_a_failure_begins_with_the_author_s_line() -> None:
    async def raises(ctx: Ctx) -> None:
        await ctx.call_activity("a")
        raise Boom("here")

    live = Live(raises)
    live.start()
    live.done(0)
    assert live.failure.error_type.endswith("Boom")
    assert live.failure.stack_trace.splitlines()[0].strip().startswith('File "' + __file__)


def test_system_exit_fails_the_instance_and_keyboard_interrupt_goes_through() -> None:
    async def exits(ctx: Ctx, how: str) -> None:
        raise SystemExit(3) if how == "exit" else KeyboardInterrupt

    live = Live(exits, "exit")
    live.start()
    assert live.failure.error_type == "builtins.SystemExit"
    with pytest.raises(KeyboardInterrupt):
        Live(exits, "interrupt").start()


def test_a_payload_that_cannot_be_read_is_not_the_author_s_failure() -> None:
    async def swallows(ctx: Ctx) -> str:
        try:
            return await ctx.call_activity("a")
        except Exception:  # noqa: BLE001 - what authors do
            return "swallowed"

    def failing(ref: str) -> str:
        raise ConnectionError(ref)

    for style in (swallows, _swallows_in_a_generator):
        live = Live(style)
        live.payloads.text = failing
        live.start()
        with pytest.raises(ConnectionError):
            live.apply(TaskCompleted(seq=0, result="@p1"))


def _swallows_in_a_generator(ctx: Ctx) -> Generator[Any, Any, str]:
    while True:
        with contextlib.suppress(Exception):
            yield ctx.call_activity("a")


# --- letting go --------------------------------------------------------------------------------


async def awaits_in_finally(ctx: Ctx) -> None:
    try:
        await ctx.wait_for_external_event("x")
    finally:
        for _ in range(3):
            await ctx.call_activity("clean")


def yields_in_finally(ctx: Ctx) -> Generator[Any, Any, None]:
    try:
        yield ctx.wait_for_external_event("x")
    finally:
        yield ctx.call_activity("clean")


async def never_lets_go(ctx: Ctx) -> None:
    while True:
        with contextlib.suppress(BaseException):
            await ctx.wait_for_external_event("x")


async def raises_when_let_go(ctx: Ctx) -> None:
    try:
        await ctx.wait_for_external_event("x")
    finally:
        raise Boom("in finally")


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("author", [awaits_in_finally, yields_in_finally, never_lets_go, raises_when_let_go])
@pytest.mark.filterwarnings("error")
def test_letting_go_is_quiet(author: Any, close: bool) -> None:
    live = Live(author)
    turn = live.start()
    assert turn.outcome == Waiting()
    if close:
        live.execution.close()
        live.execution.close()
    del live
    gc.collect()  # pytest turns what is raised in here, or never awaited, into an error
