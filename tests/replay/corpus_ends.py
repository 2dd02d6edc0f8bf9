"""More shapes: how programs end, and what they give up on the way. Importing this adds them to PROGRAMS."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

from corpus import ADD, PROGRAMS, Ctx, boom, completes, fails, gives, shape

from celeriac.orchestrations import RetryPolicy, Task, TaskCancelledError, when_all, when_any
from celeriac.orchestrations.turn import Waiting

__all__ = ["PROGRAMS"]


@shape(fails("TaskFailedError", "boom"), activities=ADD)
async def uncaught(ctx: Ctx) -> None:
    await ctx.call_activity("boom")


@shape(fails("builtins.TypeError", "int 42"), activities=ADD)
def yields_a_non_task(ctx: Ctx) -> Generator[Any, Any, None]:
    yield ctx.call_activity("double", 1)
    yield 42


@shape(lambda outcome: isinstance(outcome, Waiting), activities=ADD, events=(("x", 1),))
async def never_ends(ctx: Ctx) -> None:
    await ctx.wait_for_external_event("y")


@shape(completes(lambda f: set(f) <= {"cancelled", "ended"}), activities=ADD, children={"c": lambda *a: 1})
async def cancelled_tasks(ctx: Ctx) -> list[str]:
    tasks: list[Task[Any]] = [
        ctx.call_activity("double", 1),
        ctx.call_sub_orchestrator("c"),
        ctx.create_timer(timedelta(hours=1)),
        ctx.call_activity("double", 2),
    ]
    gone = ctx.call_activity("double", 3)
    gone.cancel()
    await when_any(tasks)
    when_all(tasks).cancel()
    results = await when_all([*tasks, gone], return_exceptions=True)
    return ["cancelled" if isinstance(r, TaskCancelledError) else "ended" for r in results]


@shape(gives(["", "child of inst"]), children={"child": lambda instance, given: f"child of {given}"})
async def versions(ctx: Ctx) -> list[str]:
    if ctx.version == "2":
        return ["new"]
    return [
        ctx.version,
        await ctx.call_sub_orchestrator("child", ctx.instance_id, version="2", tags={"k": "v"}),
    ]


@shape(fails("CodecError", "output of orchestrator 'output_is_not_json'"), activities=ADD)
async def output_is_not_json(ctx: Ctx) -> Any:
    await ctx.call_activity("double", 1)
    return [object()]


@shape(fails("CodecError", "$[1]"), input=[1, "two"])
async def input_does_not_fit(ctx: Ctx, numbers: list[int]) -> int:
    return sum(numbers)


@shape(fails("CodecError", "argument 2"), activities=ADD)
async def argument_is_not_json(ctx: Ctx) -> None:
    await ctx.call_activity("double", 1)
    await ctx.call_activity("add", 1, object())


@shape(
    completes(lambda found: found in ("gave up", "child")), children={"slow": lambda *_: "child", "bad": boom}
)
async def a_retrying_child_is_given_up(ctx: Ctx) -> str:
    slow = ctx.call_sub_orchestrator("slow")
    bad = ctx.call_sub_orchestrator("bad", retry=RetryPolicy(timedelta(minutes=1), 5))
    winner = await when_any([slow, bad])
    bad.cancel()
    return "child" if winner is slow else "gave up"
