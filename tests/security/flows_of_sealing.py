"""Workflows that put one secret word wherever a user's value can go."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from celeriac.activities import INJECTED, ActivityContext, activity
from celeriac.orchestrations import (
    NonRetryableError,
    OrchestrationCancelledError,
    OrchestrationContext,
    RetryContext,
    RetryPolicy,
    TaskFailedError,
    orchestrator,
    queue_trigger,
)

WORD = os.environ.get("FLOWS_WORD", "")
NOTES = Path(os.environ.get("FLOWS_NOTES", "."))
LARGE = 20_000  # times the word
QUICK = RetryPolicy(timedelta(milliseconds=20), 3)


class ToldError(NonRetryableError):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.properties = {"card": WORD}


def useless(context: RetryContext) -> bool:
    """A retry handler that fails."""
    raise ValueError(WORD)


@activity
def echo(value: Any) -> Any:
    return value


@activity
def enlarge(text: str) -> str:
    return text * LARGE


@activity(retry=QUICK, heartbeat=30)
def shaky(value: str, context: ActivityContext = INJECTED) -> Any:
    """Fails twice, telling where it is; the last attempt returns what the one before told."""
    before = context.last_heartbeat
    context.heartbeat({"at": value})
    if context.attempt == 2:
        (NOTES / "told").touch()
        while not (NOTES / "seen").exists():  # the test looks at the progress first
            time.sleep(0.02)
    if context.attempt < 3:
        raise ConnectionError(f"{value} is not there yet")
    return before


@activity
def fail(value: str) -> None:
    try:
        raise KeyError(value)
    except KeyError as error:
        raise ToldError(f"no {value}") from error


@activity(retry=RetryPolicy(timedelta(milliseconds=20), 2, handler=useless))
def handled(value: str) -> None:
    raise ValueError(value)


@activity
def exits(value: str) -> None:
    raise SystemExit(value)


@orchestrator
async def child(ctx: OrchestrationContext, value: str) -> str:
    return await ctx.call_activity(echo, value)


@orchestrator
async def failing(ctx: OrchestrationContext, value: str) -> None:
    raise ValueError(f"cannot do {value}")


@orchestrator
async def odd(ctx: OrchestrationContext) -> None:
    """Its turn can never be taken."""
    raise _Odd(WORD)


class _Odd(BaseException):
    """No Exception: the engine charges the instance."""


async def _failures(ctx: OrchestrationContext, value: str) -> list[str]:
    """What each way to fail looks like to the author."""
    said: list[str] = []
    for task in (
        ctx.call_activity(fail, value),
        ctx.call_activity(handled, value),
        ctx.call_activity(exits, value),
        ctx.call_sub_orchestrator(failing, value),
        ctx.map(fail, [value]),
    ):
        try:
            await task
        except TaskFailedError as error:
            said.append(error.details.message)
    return said


@orchestrator
async def everything(ctx: OrchestrationContext, order: dict[str, Any]) -> dict[str, Any]:
    word = order["word"]
    if order.get("again"):
        ctx.set_custom_status({"second": word})
        carried = await ctx.wait_for_external_event("later")
        return {"word": word, "carried": carried, "large": order["large"], "seen": order["seen"]}
    ctx.set_custom_status({"first": word})
    said = await ctx.wait_for_external_event("go")
    seen = {
        "said": said,
        "echo": await ctx.call_activity(echo, word),
        "shaky": await ctx.call_activity(shaky, word),
        "map": await ctx.map(echo, [f"{word}{i}" for i in range(30)]),
        "child": await ctx.call_sub_orchestrator(child, word),
        "failures": await _failures(ctx, word),
    }
    await ctx.create_timer(timedelta(seconds=0.05))
    ctx.send_event(order["other"], "told", word)
    large = await ctx.call_activity(enlarge, word)
    whole = await ctx.call_activity(echo, large)
    ctx.continue_as_new({"again": True, "word": word, "large": whole, "seen": seen})
    return {}


@orchestrator
async def compensating(ctx: OrchestrationContext, word: str) -> Any:
    try:
        return await ctx.wait_for_external_event("told")
    except OrchestrationCancelledError as error:
        await ctx.call_activity(echo, f"back: {error}")
        raise


@orchestrator
async def parent(ctx: OrchestrationContext, word: str) -> Any:
    return await ctx.call_sub_orchestrator(compensating, word, instance_id=f"{ctx.instance_id}-child")


@queue_trigger(os.environ.get("FLOWS_QUEUE", "sealed-orders"), max_dequeue=2)
def starter(message: Any, client: Any) -> None:
    raise ValueError(f"{message} is not {WORD}")
