"""The patterns of workflows, from start to end through the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from celeriac.orchestrations import (
    NonRetryableError,
    RetryAfter,
    RetryPolicy,
    TaskFailedError,
    when_all,
    when_any,
)
from celeriac.orchestrations.history import GroupScheduled, TaskCompleted


@dataclass
class Order:
    sku: str
    wait: timedelta


def test_sequence(lab: Any) -> None:
    @lab.activity
    def double(n: int) -> int:
        return 2 * n

    @lab.orchestrator
    async def thrice(ctx: Any, n: int) -> int:
        for _ in range(3):
            n = await ctx.call_activity(double, n)
        return n

    lab.up()
    state = lab.run(thrice, 5)
    assert (state.status, state.output) == ("Completed", 40)
    assert lab.kinds(state.id) == [
        "ExecutionStarted", "TaskScheduled", "TaskCompleted", "TaskScheduled", "TaskCompleted",
        "TaskScheduled", "TaskCompleted", "ExecutionCompleted",
    ]  # fmt: skip


def test_sequence_as_generator_with_values_of_types(lab: Any) -> None:
    @lab.activity
    async def price(order: Order) -> float:
        await asyncio.sleep(0)
        return len(order.sku) + order.wait.total_seconds()

    @lab.orchestrator
    def quote(ctx: Any, order: Order) -> Any:
        cost = yield ctx.call_activity(price, order)
        ctx.set_custom_status({"cost": cost})
        return cost

    lab.up()
    state = lab.run(quote, Order("abc", timedelta(seconds=4)))
    assert (state.status, state.output, state.custom_status) == ("Completed", 7.0, {"cost": 7.0})


@pytest.mark.parametrize("width", [1, 2, 20, 1000])
def test_fan_out(lab: Any, width: int) -> None:
    @lab.activity
    def square(n: int) -> int:
        return n * n

    @lab.orchestrator
    async def squares(ctx: Any, count: int) -> list[int]:
        return await when_all([ctx.call_activity(square, n) for n in range(count)])

    pump = lab.up()
    state = lab.run(squares, width, timeout=60)
    assert (state.status, state.output) == ("Completed", [n * n for n in range(width)])
    assert len(pump.ran) == width
    if width > 1:
        assert lab.kinds(state.id)[1:] == ["GroupScheduled", "GroupCompleted", "ExecutionCompleted"]
        assert {group.size for group in pump.groups} == {width}
        scheduled = lab.history(state.id)[1]
        assert isinstance(scheduled, GroupScheduled)
        assert scheduled.parts.startswith("@") == (width == 1000)


def test_fan_out_of_10000(lab: Any) -> None:
    @lab.activity
    def square(n: int) -> int:
        return n * n

    @lab.orchestrator
    async def squares(ctx: Any, count: int) -> int:
        return sum(await ctx.map(square, range(count)))

    lab.up()
    state = lab.run(squares, 10_000, timeout=110)
    assert (state.status, state.output) == ("Completed", sum(n * n for n in range(10_000)))
    assert len(lab.history(state.id)) == 4


def test_map_keeps_its_bound(lab: Any) -> None:
    @lab.activity
    def square(n: int) -> int:
        return n * n

    @lab.orchestrator
    async def squares(ctx: Any, count: int) -> list[int]:
        return await ctx.map(square, range(count), max_parallel=7)

    lab.work()
    instance = lab.client.start(squares, 50)
    queue = lab.settings.queue_key()
    lab.until(lambda: lab.store.client.llen(queue) == 7)
    pump = lab.pump()
    state = lab.client.wait(instance, timeout=30)
    assert state.output == [n * n for n in range(50)]
    assert pump.most_taken <= 7


def test_group_with_failures(lab: Any) -> None:
    @lab.activity
    def half(n: int) -> int:
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n // 2

    @lab.orchestrator
    async def halves(ctx: Any, count: int) -> Any:
        try:
            await when_all([ctx.call_activity(half, n) for n in range(count)])
        except TaskFailedError as error:
            return [error.is_caused_by(ValueError), *(f.message for f in error.failures)]

    lab.up()
    assert lab.run(halves, 6).output == [True, "1 is odd", "3 is odd", "5 is odd"]


def test_when_any_and_late_results(lab: Any) -> None:
    @lab.activity
    def name(n: int) -> str:
        return f"n{n}"

    @lab.orchestrator
    async def first(ctx: Any) -> list[str]:
        tasks = [ctx.call_activity(name, n) for n in range(5)]
        seen = []
        while tasks:
            done = await when_any(tasks)
            seen.append(done.result)
            tasks.remove(done)
        return sorted(seen)

    lab.up()
    assert lab.run(first).output == ["n0", "n1", "n2", "n3", "n4"]


def test_retry_parks_and_counts(lab: Any) -> None:
    tries: list[int] = []

    @lab.activity
    def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("try again")
        return "done"

    @lab.orchestrator
    async def trying(ctx: Any) -> str:
        policy = RetryPolicy(timedelta(milliseconds=20), 5)
        return await ctx.call_activity(flaky.with_options(retry=policy))

    pump = lab.up()
    state = lab.run(trying)
    assert (state.output, len(tries)) == ("done", 3)
    assert [attempt for _, attempt in pump.ran] == [1, 2, 3]
    (completed,) = [e for e in lab.history(state.id) if isinstance(e, TaskCompleted)]
    assert [(a.number, a.message) for a in completed.attempts] == [(1, "try again"), (2, "try again")]


def test_retry_within_a_group(lab: Any) -> None:
    failed: set[int] = set()

    @lab.activity(retry=RetryPolicy(timedelta(milliseconds=10), 3))
    def flaky(n: int) -> int:
        if n % 3 == 0 and n not in failed:
            failed.add(n)
            raise RetryAfter(0.01)
        return n

    @lab.orchestrator
    async def trying(ctx: Any) -> int:
        return sum(await when_all([ctx.call_activity(flaky, n) for n in range(30)]))

    lab.up()
    assert lab.run(trying).output == sum(range(30))
    assert len(failed) == 10


def test_failure_not_retried_fails_the_instance(lab: Any) -> None:
    @lab.activity(retry=RetryPolicy(timedelta(milliseconds=10), 3))
    def declined() -> None:
        raise NonRetryableError("card declined")

    @lab.orchestrator
    async def pay(ctx: Any) -> None:
        await ctx.call_activity(declined)

    pump = lab.up()
    state = lab.run(pay)
    assert state.status == "Failed"
    assert state.failure.is_caused_by(NonRetryableError)
    assert len(pump.ran) == 1


def test_timer(lab: Any) -> None:
    @lab.orchestrator
    async def nap(ctx: Any) -> float:
        before = ctx.current_utc_datetime
        await ctx.create_timer(timedelta(milliseconds=150))
        return (ctx.current_utc_datetime - before).total_seconds()

    lab.work()
    state = lab.run(nap)
    assert 0.15 <= state.output < 1.0


def test_event_or_timeout(lab: Any) -> None:
    @lab.orchestrator
    async def approval(ctx: Any, limit: float) -> str:
        try:
            return await ctx.wait_for_external_event("Approved", str, timeout=timedelta(seconds=limit))
        except TimeoutError:
            return "escalated"

    lab.work()
    waiting = lab.client.start(approval, 60)
    lab.client.raise_event(waiting, "approved", "by Ada")
    assert lab.client.wait(waiting, timeout=10).output == "by Ada"
    assert lab.run(approval, 0.1).output == "escalated"
    assert lab.store.client.zcard(lab.store.keys.timers) == 0


def test_children(lab: Any) -> None:
    @lab.activity
    def add(a: int, b: int) -> int:
        return a + b

    @lab.orchestrator
    async def leaf(ctx: Any, n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return await ctx.call_activity(add, n, 1)

    @lab.orchestrator
    async def tree(ctx: Any) -> Any:
        sums = await when_all([ctx.call_sub_orchestrator(leaf, n) for n in range(3)])
        try:
            await ctx.call_sub_orchestrator(leaf, 3)
        except TaskFailedError as error:
            return [sums, error.details.message]

    lab.up()
    state = lab.run(tree)
    assert state.output == [[1, 2, 3], "three"]
    assert lab.client.get(f"{state.id}:0001").parent_id == state.id


def test_detached_start_and_send_event(lab: Any) -> None:
    @lab.orchestrator
    async def listener(ctx: Any) -> Any:
        return await ctx.wait_for_external_event("hello")

    @lab.orchestrator
    async def speaker(ctx: Any) -> str:
        other = ctx.start_orchestration(listener, instance_id="the-listener")
        ctx.send_event(other, "hello", {"from": ctx.instance_id})
        return other

    lab.work()
    state = lab.run(speaker)
    assert state.output == "the-listener"
    other = lab.client.wait("the-listener", timeout=10)
    assert other.output == {"from": state.id}
    assert other.parent_id is None


def test_child_whose_id_runs_fails_only_the_call(lab: Any) -> None:
    @lab.orchestrator
    async def sleeper(ctx: Any) -> None:
        await ctx.wait_for_external_event("wake")

    @lab.orchestrator
    async def parent(ctx: Any) -> str:
        try:
            await ctx.call_sub_orchestrator(sleeper, instance_id="taken")
        except TaskFailedError as error:
            return error.details.message
        return "?"

    lab.work()
    lab.client.start(sleeper, instance_id="taken")
    assert "taken" in lab.run(parent).output
    lab.client.terminate("taken")
