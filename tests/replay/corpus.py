"""Workflow shapes: each a program and what must come of it in whatever order things happen."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any

from world import Boom, Program

from celeriac.orchestrations import (
    OrchestrationCancelledError,
    OrchestrationContext,
    RetryPolicy,
    TaskCancelledError,
    TaskFailedError,
    as_completed,
    when_all,
    when_any,
)
from celeriac.orchestrations.codec import decode
from celeriac.orchestrations.registry import define
from celeriac.orchestrations.turn import Cancelled, Completed, Failed, Outcome

Ctx = OrchestrationContext
PROGRAMS: list[Program] = []


def gives(*values: Any) -> Callable[[Outcome], bool]:
    """It completes with one of these."""
    return lambda outcome: isinstance(outcome, Completed) and decode(outcome.output) in values


def completes(test: Callable[[Any], bool]) -> Callable[[Outcome], bool]:
    return lambda outcome: isinstance(outcome, Completed) and test(decode(outcome.output))


def fails(error_type: str, text: str = "") -> Callable[[Outcome], bool]:
    return lambda outcome: (
        isinstance(outcome, Failed)
        and outcome.failure.error_type.endswith(error_type)
        and text in outcome.failure.message
    )


def shape(expect: Callable[[Outcome], bool], **program: Any) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        PROGRAMS.append(Program(define(function), expect=expect, **program))
        return function

    return add


def boom(*_: Any) -> None:
    raise Boom("no")


def odd_booms(n: int) -> int:
    if n % 2:
        raise Boom(f"{n} is odd")
    return n


ADD: dict[str, Any] = {"add": lambda a, b: a + b, "double": lambda n: 2 * n, "boom": boom, "odd": odd_booms}


@shape(gives(6), input=1, activities=ADD)
async def sequence(ctx: Ctx, n: int) -> int:
    n = await ctx.call_activity("add", n, 1)
    n = await ctx.call_activity("add", n, 1)
    return await ctx.call_activity("double", n)


@shape(gives(12), activities=ADD)
def generator_style(ctx: Ctx) -> Generator[Any, Any, int]:
    total = 0
    for n in range(3):
        total += yield ctx.call_activity("double", n)
    try:
        yield ctx.call_activity("boom")
    except TaskFailedError:
        total += 6
    (yield from helper(ctx))
    return total


def helper(ctx: Ctx) -> Generator[Any, Any, None]:
    yield when_all([])
    yield when_all([ctx.call_activity("double", 1), ctx.create_timer(timedelta(hours=1))])


@shape(gives(90), activities=ADD)
async def loop(ctx: Ctx) -> int:
    total = 0
    for n in range(10):
        total += await ctx.call_activity("double", n)
    return total


@shape(gives(["big", 40], ["small", 2]), input=3, activities=ADD)
async def branches(ctx: Ctx, n: int) -> list[Any]:
    doubled = await ctx.call_activity("double", n)
    if doubled > 5:
        return ["big", await ctx.call_activity("double", 20)]
    return ["small", 2]


@shape(gives([0, 2, 4, 6]), activities=ADD)
async def fan_out(ctx: Ctx) -> list[int]:
    return await when_all([ctx.call_activity("double", n) for n in range(4)])


@shape(gives([6, 4, 2, 0, 9]), activities=ADD)
async def fan_out_in_other_order(ctx: Ctx) -> list[int]:
    tasks = [ctx.call_activity("double", n) for n in range(4)]
    before = await ctx.call_activity("add", 4, 5)
    return [*await when_all(reversed(tasks)), before]


@shape(gives([[0, 2], [4, 6, None]]), activities=ADD)
async def nested_groups(ctx: Ctx) -> list[Any]:
    first = when_all([ctx.call_activity("double", n) for n in range(2)])
    timer = ctx.create_timer(timedelta(minutes=1))
    second = when_all([ctx.call_activity("double", 2), ctx.call_activity("double", 3), timer])
    return await when_all([first, second])


@shape(completes(lambda names: sorted(names) == ["a", "b", "c"]), activities=ADD)
async def any_until_done(ctx: Ctx) -> list[str]:
    pending = {name: ctx.call_activity("double", ord(name)) for name in "abc"}
    order = []
    while pending:
        winner = await when_any(pending.values())
        name = next(name for name, task in pending.items() if task is winner)
        order.append(name)
        del pending[name]
    return order


@shape(completes(lambda found: found in ([0], [2], [4])), activities=ADD)
async def a_task_in_several_groups(ctx: Ctx) -> Any:
    tasks = [ctx.call_activity("double", n) for n in range(3)]
    some, every = when_any(tasks), when_all(tasks)
    nested = when_any([when_all([every, some]), ctx.wait_for_external_event("never")])
    await nested
    return [(await some).result]


@shape(completes(lambda found: sorted(found) == [0, 2, 4, 6]), activities=ADD)
async def completion_order_async(ctx: Ctx) -> list[int]:
    tasks = [ctx.call_activity("double", n) for n in range(4)]
    return [task.result async for task in as_completed(tasks)]


@shape(completes(lambda found: sorted(map(str, found)) == ["0", "2", "boom", "boom"]), activities=ADD)
def completion_order_generator(ctx: Ctx) -> Generator[Any, Any, list[Any]]:
    found: list[Any] = []
    tasks = [ctx.call_activity("odd", n) for n in range(4)]
    for place in as_completed({*tasks}):
        try:
            found.append((yield place))
        except TaskFailedError:
            found.append("boom")
    return found


@shape(gives([[2 * n for n in range(9)], []]), activities=ADD)
async def windowed_map(ctx: Ctx) -> Any:
    return [await ctx.map("double", range(9), max_parallel=2), await ctx.map("double", [])]


@shape(gives([0, "TaskFailedError", 2, "TaskFailedError", 2]), activities=ADD)
async def map_with_failures(ctx: Ctx) -> Any:
    found = await ctx.map("odd", range(4), return_exceptions=True)
    try:
        await ctx.map("odd", range(4))
    except TaskFailedError as error:
        names = [item if isinstance(item, int) else type(item).__name__ for item in found]
        return [*names, len(error.failures)]


@shape(completes(lambda found: found in ("map", "timer")), activities=ADD)
async def map_against_a_timer(ctx: Ctx) -> str:
    mapped = ctx.map("double", range(5), 2)
    timer = ctx.create_timer(timedelta(seconds=1))
    if await when_any([mapped, timer]) is timer:
        assert mapped.cancel()
        assert isinstance(mapped.exception, TaskCancelledError)
        return "timer"
    return "map"


@shape(gives(["1 is odd", 2, [0, "1 is odd", 2, "3 is odd"]]), activities=ADD)
async def failures_in_groups(ctx: Ctx) -> Any:
    tasks = [ctx.call_activity("odd", n) for n in range(4)]
    found: list[Any] = []
    try:
        await when_all(tasks)
    except TaskFailedError as error:
        found = [error.details.message, len(error.failures)]
    results = await when_all(tasks, return_exceptions=True)
    return [*found, [r.details.message if isinstance(r, TaskFailedError) else r for r in results]]


@shape(fails("TaskFailedError", "odd"), activities=ADD)
async def fail_fast(ctx: Ctx) -> Any:
    return await when_all(
        [ctx.call_activity("odd", 1), ctx.wait_for_external_event("x"), ctx.call_activity("odd", 3)],
        fail_fast=True,
    )


def flaky_child(instance: str, _input: Any) -> str:
    if not instance.endswith(".3"):
        raise Boom(instance)
    return instance


@shape(gives(["inst:0000.3", "inst:0000", "mine.3", 4]), children={"flaky": flaky_child, "bad": boom})
async def children_with_retries(ctx: Ctx) -> Any:
    policy = RetryPolicy(timedelta(seconds=5), 4, backoff_coefficient=2)
    task = ctx.call_sub_orchestrator("flaky", {"n": 1}, retry=policy)
    own = ctx.call_sub_orchestrator("flaky", instance_id="mine", retry=policy)
    plain = ctx.call_sub_orchestrator("flaky")
    found = [await task]
    try:
        await ctx.call_sub_orchestrator("bad", retry=RetryPolicy(timedelta(seconds=1), 2))
    except TaskFailedError:
        assert isinstance((await when_all([plain], return_exceptions=True))[0], TaskFailedError)
        return [*found, "inst:0000", await own, 4]


@shape(gives([True, True, True]), activities=ADD)
async def timers(ctx: Ctx) -> list[bool]:
    start = ctx.current_utc_datetime
    await ctx.create_timer(start - timedelta(days=1))
    past = ctx.current_utc_datetime - start < timedelta(minutes=1)
    await ctx.create_timer(timedelta(days=30))
    month = ctx.current_utc_datetime - start >= timedelta(days=30)
    gone = ctx.create_timer(timedelta(days=400))
    await ctx.call_activity("double", 1)
    gone.cancel()
    never = ctx.create_timer(timedelta(days=500))
    return [past, month, never.cancel() and not gone.cancel()]


@shape(gives(["A", "B", "C"]), activities=ADD, events=(("go", "A"), ("GO", "B"), ("Go", "C")))
async def events_early_and_late(ctx: Ctx) -> list[str]:
    first = ctx.wait_for_external_event("Go", str)
    dropped = ctx.wait_for_external_event("go")
    await ctx.call_activity("double", 1)
    found = [await first, await ctx.wait_for_external_event("gO")]
    found.append(await dropped)
    return found


@shape(gives([1, 2, 3]), events=(("tick", 1), ("other", 0), ("tick", 2), ("tick", 3)))
async def event_against_timer_in_a_loop(ctx: Ctx) -> list[int]:
    found: list[int] = []
    while len(found) < 3:
        event = ctx.wait_for_external_event("tick", int)
        timer = ctx.create_timer(timedelta(seconds=10))
        if await when_any([event, timer]) is event:
            timer.cancel()
            found.append(event.result)
        elif ctx.current_utc_datetime.year > 2100:
            break
    return found


@shape(completes(lambda f: f in (["late", "E"], ["E", "late"])), events=(("e", "E"),))
async def event_with_timeout(ctx: Ctx) -> Any:
    try:
        first = await ctx.wait_for_external_event("e", str, timeout=timedelta(seconds=3))
    except TimeoutError:
        return ["late", await ctx.wait_for_external_event("e", str)]
    return [first, await ctx.wait_for_external_event("e", timeout=5.0, default="late")]


@shape(gives(["a1", "b1", "a2"]), events=(("b", "b1"), ("a", "a1"), ("a", "a2")))
async def events_to_many_waiters(ctx: Ctx) -> Any:
    a2 = ctx.wait_for_external_event("a")
    a1 = ctx.wait_for_external_event("a")
    b = ctx.wait_for_external_event("b")
    older, newer = await when_all([a1, a2])  # the oldest waiter is served first, whatever the order here
    return [newer, await b, older]


@shape(lambda o: isinstance(o, Cancelled) or gives(3)(o), activities=ADD, cancel=True, events=(("never", 1),))
async def cancel_with_compensation(ctx: Ctx) -> int:
    done: list[str] = []
    try:
        for n in range(3):
            value = await ctx.call_activity("double", n)
            done.append(value)
        return len(done)
    except OrchestrationCancelledError:
        for n in reversed(done):
            await ctx.call_activity("undo", n)
        raise


@shape(
    lambda o: gives([0, 2, 4])(o) or completes(lambda f: f[0] == "cancelled")(o), activities=ADD, cancel=True
)
async def cancel_dissolves_a_group(ctx: Ctx) -> Any:
    tasks = [ctx.call_activity("double", n) for n in range(3)]
    try:
        return await when_all(tasks)
    except OrchestrationCancelledError:
        tasks[1].cancel()
        first = await when_any([tasks[2], tasks[0]])
        return ["cancelled", first.result]


@shape(gives([3, 6]), input=[0, 0], activities=ADD, runs=4, events=(("n", 1), ("n", 2), ("n", 3)))
async def continue_with_carried_events(ctx: Ctx, state: list[int]) -> list[int]:
    count, total = state
    if count == 3:
        return state
    await ctx.call_activity("double", 1)
    value = await ctx.wait_for_external_event("n", int)
    return ctx.continue_as_new([count + 1, total + value])


@shape(gives("new"), activities=ADD)
async def patched(ctx: Ctx) -> str:
    await ctx.call_activity("double", 1)
    for _ in range(3):
        assert ctx.patched("change-1")
        await ctx.call_activity("new")
    return "new" if ctx.patched("change-1") and ctx.patched("change-2") else "old"


@shape(gives([True, 64]), activities=ADD)
async def chance(ctx: Ctx) -> Any:
    ids = [ctx.new_uuid() for _ in range(2)]
    rolled = ctx.random().randrange(100)
    await ctx.call_activity("add", rolled, str(ids[0]).count("zz"))
    again = ctx.random().randrange(100)
    await ctx.create_timer(timedelta(seconds=rolled))
    ctx.logger.info("rolled %s", rolled)
    return [ids[0] != ids[1], (again * 0 + 64)]


@shape(gives("inst:0003"), activities=ADD)
async def status_signals_and_detached(ctx: Ctx) -> str:
    ctx.set_custom_status({"at": "start"})
    ctx.send_event("other", "hello", {"from": ctx.instance_id})
    await ctx.call_activity("double", 1)
    ctx.set_custom_status(None)
    ctx.send_event("other", "bye")
    return ctx.start_orchestration("audit", [1, 2])


@shape(gives("done-cleaned"), activities=ADD)
async def try_finally(ctx: Ctx) -> str:
    state = "lost"
    try:
        try:
            await ctx.call_activity("boom")
        except TaskFailedError:
            state = "done"
            raise
        finally:
            await ctx.call_activity("clean")
            state += "-cleaned"
    except Boom:
        return "wrong"
    except TaskFailedError as error:
        return state if error.is_caused_by(Boom) else "wrong"
    return "wrong"
