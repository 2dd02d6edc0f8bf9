"""What the fleet runs under faults: orchestrators of every kind, and activities that leave a trace.

Each activity appends one line when it begins and one when it ends to the effect log (`CHAOS_EFFECTS`), in a
single write each, so that a line is whole or not there. Results are computed from the input alone: model.py
says what is right.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import secrets
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from celeriac.activities import ActivityContext, activity
from celeriac.orchestrations import (
    OrchestrationCancelledError,
    OrchestrationContext,
    RetryPolicy,
    TaskFailedError,
    orchestrator,
    queue_trigger,
    when_all,
)

QUEUE: Final = "chaos-messages"  # each message of this Redis list starts a `chaos_message`
MODULUS: Final = 1_000_003
AGAIN: Final = RetryPolicy(timedelta(milliseconds=200), 6, backoff_coefficient=1.5)
_EFFECTS: Final = os.open(
    os.environ.get("CHAOS_EFFECTS", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
)
faulthandler.register(signal.SIGUSR2)  # the harness asks for stacks when something is stuck


class DeliberateError(Exception):
    """A failure that the plan asked for."""


# --- the effect log ---------------------------------------------------------------------------------


class _Run:
    """One run of an activity, as the effect log shows it."""

    def __init__(self) -> None:
        context = ActivityContext.current()
        self._attempt = context.attempt
        self._line = {
            "run": secrets.token_hex(6),
            "instance": context.instance_id,
            "execution": context.execution_id,
            "seq": context.seq,
            "attempt": context.attempt,
            "name": context.name,
            "pid": os.getpid(),
            "parent": os.getppid(),
        }
        self._write("begin")

    def ended(self, failures: int, result: Callable[[], Any]) -> Any:
        """Fail on purpose in the first attempts, or give the result."""
        if self._attempt <= failures:
            self._write("failed")
            raise DeliberateError(f"attempt {self._attempt} of {failures} that fail")
        value = result()
        self._write("done", value)
        return value

    def _write(self, what: str, value: Any = None) -> None:
        if isinstance(value, str):
            value = len(value)  # the log is to stay small
        line = self._line | {"what": what, "at": time.time(), "value": value}
        os.write(_EFFECTS, json.dumps(line).encode() + b"\n")


def _work(ms: int, result: Callable[[], Any], failures: int = 0) -> Any:
    run = _Run()
    time.sleep(ms / 1000)
    return run.ended(failures, result)


# --- activities -------------------------------------------------------------------------------------


@activity
def step(value: int, ms: int) -> int:
    """One link of a chain."""
    return _work(ms, lambda: (value * 3 + 1) % MODULUS)


@activity
def flaky(value: int, ms: int, failures: int) -> int:
    """Fails in its first attempts."""
    return _work(ms, lambda: (value * 5 + 2) % MODULUS, failures)


@activity
def square(value: int) -> int:
    """A part of a fan-out."""
    return _work(value % 40, lambda: value * value)


@activity
async def square_later(value: int) -> int:
    """The same, on an event loop."""
    run = _Run()
    await asyncio.sleep((value % 40) / 1000)
    return run.ended(0, lambda: value * value)


@activity
def widen(text: str, times: int) -> str:
    """A large result, from a large argument."""
    return _work(5, lambda: text * times)


@activity
def reserve(item: int) -> int:
    """Something that `release` takes back."""
    return _work(item % 30, lambda: item)


@activity
def release(item: int) -> int:
    """Compensation."""
    return _work(item % 30, lambda: -item)


# --- orchestrators ----------------------------------------------------------------------------------


@orchestrator
async def chaos_sequence(ctx: OrchestrationContext, given: dict[str, Any]) -> int:
    """A chain of activities, each fed by the one before."""
    value = given["value"]
    for ms in given["ms"]:
        value = await ctx.call_activity(step, value, ms)
    return value


@orchestrator
async def chaos_fan_out(ctx: OrchestrationContext, given: dict[str, Any]) -> int:
    """Many at once, joined."""
    results = await when_all([ctx.call_activity(square, value) for value in given["values"]])
    return sum(results) % MODULUS


@orchestrator
async def chaos_map(ctx: OrchestrationContext, given: dict[str, Any]) -> list[int]:
    """Many in windows, in order."""
    return await ctx.map(square_later, given["values"], max_parallel=given["window"])


@orchestrator
async def chaos_retry(ctx: OrchestrationContext, given: dict[str, Any]) -> list[int]:
    """Activities that fail first, singly and as parts of a group."""
    again = flaky.with_options(retry=AGAIN)
    first = await ctx.call_activity(again, given["value"], given["ms"], given["failures"])
    parts = [ctx.call_activity(again, n, 5, n % 2) for n in range(given["width"])]
    return [first, *await when_all(parts)]


@orchestrator
async def chaos_failure(ctx: OrchestrationContext, given: dict[str, Any]) -> None:
    """Fails in the end, by an activity that fails for good."""
    await ctx.call_activity(flaky, given["value"], given["ms"], 1000)


@orchestrator
async def chaos_timer(ctx: OrchestrationContext, given: dict[str, Any]) -> list[int]:
    """Timers, none of which may fire early."""
    early = 0
    for ms in given["ms"]:
        due = ctx.current_utc_datetime + timedelta(milliseconds=ms)
        await ctx.create_timer(due)
        early += ctx.current_utc_datetime < due
    missed = await ctx.wait_for_external_event("Never", int, timedelta(milliseconds=50), default=-1)
    return [early, missed, await ctx.call_activity(step, len(given["ms"]), 5)]


@orchestrator
async def chaos_event(ctx: OrchestrationContext, given: dict[str, Any]) -> list[int]:
    """Takes events in order; each wait leaves a timer behind that must be taken back."""
    hour = timedelta(hours=1)
    taken = [await ctx.wait_for_external_event("Number", int, hour) for _ in range(given["events"])]
    return [*taken, await ctx.call_activity(step, sum(taken), 5)]


@orchestrator
async def chaos_parent(ctx: OrchestrationContext, given: dict[str, Any]) -> list[int]:
    """Children: some complete, one fails."""
    children = [ctx.call_sub_orchestrator(chaos_sequence, child) for child in given["children"]]
    failing = ctx.call_sub_orchestrator(chaos_failure, {"value": 1, "ms": 5})
    results = await when_all(children)
    try:
        await failing
    except TaskFailedError:
        return [*results, -1]
    return results


@orchestrator
async def chaos_rounds(ctx: OrchestrationContext, given: dict[str, Any]) -> dict[str, Any]:
    """Continues as new after each event; events that came meanwhile go along."""
    if given["left"] == 0:
        return {"total": given["total"]}
    number = await ctx.wait_for_external_event("Number", int)
    worked = await ctx.call_activity(step, number, 5)
    return ctx.continue_as_new({"left": given["left"] - 1, "total": (given["total"] * 2 + worked) % MODULUS})


@orchestrator
async def chaos_cancel(ctx: OrchestrationContext, given: dict[str, Any]) -> None:
    """Waits for ever, so that it ends by being cancelled; then undoes everything."""
    try:
        for item in given["items"]:
            await ctx.call_activity(reserve, item)
        await ctx.call_sub_orchestrator(chaos_forever)
    except OrchestrationCancelledError:
        for item in reversed(given["items"]):
            await ctx.call_activity(release, item)
        ctx.set_custom_status("undone")
        raise


@orchestrator
async def chaos_forever(ctx: OrchestrationContext) -> None:
    """A child that its parent's end has to end."""
    await ctx.wait_for_external_event("Never")


@orchestrator
async def chaos_large(ctx: OrchestrationContext, given: dict[str, Any]) -> str:
    """Payloads that are kept beside the history."""
    return await ctx.call_activity(widen, given["text"], given["times"])


@queue_trigger(QUEUE)
@orchestrator
async def chaos_message(ctx: OrchestrationContext, given: dict[str, Any]) -> list[int]:
    """What a message becomes."""
    return [given["number"], await ctx.call_activity(step, given["number"], 5)]
