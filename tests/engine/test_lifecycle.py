"""The life of an instance: continue as new, versions, cancel, suspend, terminate."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.orchestrations import OrchestrationCancelledError, when_all


def test_continue_as_new_keeps_events(lab: Any) -> None:
    @lab.orchestrator
    async def counter(ctx: Any, total: int) -> int:
        amount = await ctx.wait_for_external_event("add", int)
        if amount == 0:
            return total
        return ctx.continue_as_new(total + amount)

    instance = lab.client.start(counter, 0)
    for n in (5, 7, 9, 0):
        lab.client.raise_event(instance, "add", n)
    lab.work()
    state = lab.client.wait(instance, timeout=10)
    assert (state.output, state.run) == (21, 3)
    assert len(lab.history(instance)) == 3


def test_versions_side_by_side(lab: Any) -> None:
    @lab.orchestrator(name="hello", version="1.9")
    async def old(ctx: Any) -> str:
        await ctx.wait_for_external_event("go")
        return "old"

    first = lab.work()
    started = lab.client.start("hello")
    lab.until(lambda: lab.client.get(started).status == "Running")
    assert lab.client.get(started).version == "1.9"
    lab.halt(first)

    @lab.orchestrator(name="hello", version="1.10")
    async def new(ctx: Any) -> str:
        return f"new {ctx.version}"

    lab.work()
    assert lab.run("hello").output == "new 1.10"
    lab.client.raise_event(started, "go")
    assert lab.client.wait(started, timeout=10).output == "old"


def test_cancel_with_compensation(lab: Any) -> None:
    undone: list[str] = []

    @lab.activity
    def undo(what: str) -> None:
        undone.append(what)

    @lab.orchestrator
    async def book(ctx: Any) -> None:
        try:
            await ctx.wait_for_external_event("never")
        except OrchestrationCancelledError:
            await ctx.call_activity(undo, "flight")
            raise

    lab.up()
    instance = lab.client.start(book)
    lab.until(lambda: lab.client.get(instance).status == "Running")
    lab.client.cancel(instance, "changed my mind")
    state = lab.client.wait(instance, timeout=10)
    assert (state.status, undone) == ("Cancelled", ["flight"])


def test_cancel_dissolves_a_group(lab: Any) -> None:
    @lab.activity
    def one(n: int) -> int:
        return n

    @lab.orchestrator
    async def fan(ctx: Any) -> int:
        tasks = [ctx.call_activity(one, n) for n in range(1200)]
        try:
            await when_all(tasks)
        except OrchestrationCancelledError:
            return sum(await when_all(tasks))
        return -1

    lab.work()
    instance = lab.client.start(fan)
    queue = lab.settings.queue_key()
    lab.until(lambda: lab.store.client.llen(queue) == 500)
    lab.client.cancel(instance)
    lab.until(lambda: "CancelRequested" in lab.kinds(instance))
    lab.pump()
    state = lab.client.wait(instance, timeout=60)
    assert (state.status, state.output) == ("Completed", sum(range(1200)))


def test_wide_fan_out_of_single_activities(lab: Any) -> None:
    @lab.activity
    def one(n: int) -> int:
        return n

    @lab.orchestrator
    async def fan(ctx: Any) -> int:
        return sum(await when_all([ctx.call_activity(one, n) for n in range(1500)], fail_fast=True))

    lab.up()
    state = lab.run(fan)
    assert state.output == sum(range(1500))
    assert lab.kinds(state.id).count("TaskScheduled") == 1500


def test_cancelled_parts_are_never_emitted(lab: Any) -> None:
    @lab.activity
    def one(n: int) -> int:
        return n

    @lab.orchestrator
    async def fan(ctx: Any) -> int:
        tasks = [ctx.call_activity(one, n) for n in range(900)]
        try:
            await when_all(tasks)
        except OrchestrationCancelledError:
            for task in tasks[100:]:
                task.cancel()
            return sum(await when_all(tasks[:100]))
        return -1

    lab.work()
    instance = lab.client.start(fan)
    lab.until(lambda: lab.store.client.llen(lab.settings.queue_key()) == 500)
    lab.client.cancel(instance)
    lab.until(lambda: "CancelRequested" in lab.kinds(instance))
    pump = lab.pump()
    state = lab.client.wait(instance, timeout=30)
    assert (state.status, state.output) == ("Completed", sum(range(100)))
    assert len(pump.ran) == 100
    lab.until(lambda: not lab.store.client.llen(lab.settings.queue_key()))  # the others are dropped


def open_fields(lab: Any, instance: str) -> list[str]:
    execution = lab.store.client.hget(lab.store.keys.inst(instance), "execution").decode()
    return [field.decode() for field in lab.store.client.hkeys(lab.store.keys.open(execution))]


def emptied(lab: Any) -> Any:
    """A pump that has looked at every message of the queue."""
    pump = lab.pump()
    lab.until(lambda: not lab.store.client.llen(lab.settings.queue_key()))
    return pump


def map_that_is_cancelled(lab: Any, size: int) -> Any:
    @lab.activity
    def one(n: int) -> int:
        return n

    @lab.orchestrator
    async def fan(ctx: Any) -> int:
        mapped = ctx.map(one, list(range(size)), 100)
        await ctx.wait_for_external_event("stop")
        assert mapped.cancel()
        return await ctx.wait_for_external_event("end", int)

    return fan


@pytest.mark.parametrize("size", [1000, 25_000])
def test_of_a_cancelled_map_no_further_part_runs(lab: Any, size: int) -> None:
    instance = lab.client.start(map_that_is_cancelled(lab, size))
    lab.work()
    queue = lab.settings.queue_key()
    lab.until(lambda: lab.store.client.llen(queue) == 100)
    lab.client.raise_event(instance, "stop")
    lab.until(lambda: "TaskCancelled" in lab.kinds(instance))
    assert open_fields(lab, instance) == []
    pump = emptied(lab)
    lab.client.raise_event(instance, "end", 1)
    assert lab.client.wait(instance, timeout=10).output == 1
    assert (pump.ran, lab.store.client.llen(queue)) == ([], 0)
    assert lab.kinds(instance).count("TaskCancelled") == 1


def test_a_map_cancelled_in_the_turn_of_its_next_window_ends_with_the_last_one(lab: Any) -> None:
    instance = lab.client.start(map_that_is_cancelled(lab, 1000))
    worker = lab.work()
    lab.until(lambda: lab.store.client.llen(lab.settings.queue_key()) == 100)
    lab.halt(worker)
    pump = emptied(lab)
    lab.until(lambda: not any(field.isdigit() for field in open_fields(lab, instance)))
    assert lab.store.client.lrange(lab.store.keys.inbox(instance), 0, -1) == [b"E0"]
    pump.stop()
    lab.client.raise_event(instance, "stop")
    lab.work()
    lab.until(lambda: "TaskCancelled" in lab.kinds(instance))
    assert (open_fields(lab, instance), lab.store.client.llen(lab.settings.queue_key())) == ([], 0)
    lab.client.raise_event(instance, "end", 7)
    assert lab.client.wait(instance, timeout=10).output == 7
    assert len(pump.ran) == 100
    lab.until(lambda: not lab.store.client.llen(lab.settings.queue_key()))  # the others are dropped


def test_a_map_cancelled_in_the_turn_that_made_it_is_never_emitted(lab: Any) -> None:
    instance = lab.client.start(map_that_is_cancelled(lab, 1000))
    lab.client.raise_event(instance, "stop")
    lab.work()
    lab.until(lambda: "TaskCancelled" in lab.kinds(instance))
    assert lab.kinds(instance).count("GroupScheduled") == 1
    assert open_fields(lab, instance) == []
    assert lab.store.client.llen(lab.settings.queue_key()) == 0
    lab.client.raise_event(instance, "end", 7)
    assert lab.client.wait(instance, timeout=10).output == 7


def test_suspend_holds_events_back(lab: Any) -> None:
    @lab.orchestrator
    async def listener(ctx: Any) -> Any:
        return await ctx.wait_for_external_event("go")

    lab.work()
    instance = lab.client.start(listener)
    lab.until(lambda: lab.client.get(instance).status == "Running")
    lab.client.suspend(instance, "hold on")
    lab.until(lambda: "ExecutionSuspended" in lab.kinds(instance))
    lab.client.raise_event(instance, "go", 1)
    assert lab.client.get(instance).status == "Suspended"
    assert "EventRaised" not in lab.kinds(instance)
    lab.client.resume(instance)
    state = lab.client.wait(instance, timeout=10)
    assert state.output == 1
    assert lab.kinds(instance) == [
        "ExecutionStarted", "ExecutionSuspended", "ExecutionResumed", "EventRaised", "ExecutionCompleted",
    ]  # fmt: skip


def test_terminate_takes_the_children_along(lab: Any) -> None:
    @lab.orchestrator
    async def sleeper(ctx: Any) -> None:
        await ctx.wait_for_external_event("never")

    @lab.orchestrator
    async def parent(ctx: Any) -> None:
        await when_all([ctx.call_sub_orchestrator(sleeper, instance_id=f"child{n}") for n in range(3)])

    lab.work()
    instance = lab.client.start(parent)
    lab.until(lambda: all(lab.status(f"child{n}") == "Running" for n in range(3)))
    lab.client.terminate(instance, "enough")
    for n in range(3):
        assert lab.client.wait(f"child{n}", timeout=10).status == "Terminated"
    lab.until(lambda: lab.store.client.llen(lab.store.keys.closing) == 0)
