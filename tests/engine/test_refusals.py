"""What goes wrong is said clearly, concerns one instance, and never hangs: bad names, values, code and
sizes."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

from celeriac.orchestrations import OrchestrationCancelledError, TaskFailedError, when_all
from celeriac.orchestrations.history import SubOrchestrationInstanceFailed, TaskFailed, TaskScheduled
from celeriac.orchestrations.registry import Registry, orchestrator


def test_unknown_activity_fails_the_task(lab: Any) -> None:
    @lab.orchestrator
    async def calls(ctx: Any) -> str:
        try:
            await ctx.call_activity("no_such_activity", 1)
        except TaskFailedError as error:
            return error.details.error_type + ": " + error.details.message
        return "?"

    lab.work()
    output = lab.run(calls).output
    assert "UnknownActivityError" in output
    assert "no_such_activity" in output


def test_unknown_activity_in_a_group_fails_its_part(lab: Any) -> None:
    @lab.activity
    def fine(n: int) -> int:
        return n

    @lab.orchestrator
    async def calls(ctx: Any) -> Any:
        names = [fine, "no_such_activity", fine]
        tasks = [ctx.call_activity(name, n) for n, name in enumerate(names, 1)]
        results = await when_all(tasks, return_exceptions=True)
        return [r if isinstance(r, int) else str(r) for r in results]

    lab.up()
    one, text, three = lab.run(calls).output
    assert (one, three) == (1, 3)
    assert "no_such_activity" in text


def test_unknown_orchestrator_fails_after_a_while(lab: Any) -> None:
    @lab.orchestrator
    async def parent(ctx: Any) -> str:
        try:
            await ctx.call_sub_orchestrator("no_such_orchestrator", 1)
        except TaskFailedError as error:
            return error.details.message
        return "?"

    lab.work()
    state = lab.run(parent, timeout=20)
    assert "no_such_orchestrator" in state.output
    child = lab.client.get(f"{state.id}:0000")
    assert (child.status, child.failure.error_type.rpartition(".")[2]) == ("Failed", "UnknownNameError")


def test_unserved_version_waits_and_says_so(lab: Any) -> None:
    @lab.orchestrator(name="versioned", version="1")
    async def one(ctx: Any) -> str:
        return "one"

    first = lab.work()
    lab.halt(first)
    other = Registry()
    lab.work(registry=other)
    instance = lab.client.start("versioned", version="1")
    state = lab.until(lambda: (s := lab.client.get(instance)).waiting and s)
    assert "'versioned' version '1'" in state.waiting
    assert state.status == "Pending"
    lab.work()
    assert lab.client.wait(instance, timeout=15).output == "one"


def test_non_determinism_waits_for_fixed_code(lab: Any) -> None:
    @lab.activity
    def one() -> int:
        return 1

    @lab.activity
    def two() -> int:
        return 2

    registries = [Registry(), Registry()]

    @orchestrator(name="changing", registry=registries[0])
    async def before(ctx: Any) -> int:
        await ctx.call_activity(one)
        return await ctx.wait_for_external_event("go", int)

    @orchestrator(name="changing", registry=registries[1])
    async def after(ctx: Any) -> int:
        await ctx.call_activity(two)
        return await ctx.wait_for_external_event("go", int)

    first = lab.work(registry=registries[0])
    lab.pump()
    instance = lab.client.start(before)
    lab.until(lambda: "TaskCompleted" in lab.kinds(instance))
    lab.halt(first)
    wrong = lab.work(registry=registries[1])
    lab.client.raise_event(instance, "go", 5)
    state = lab.until(lambda: (s := lab.client.get(instance)).waiting and s)
    assert state.status == "Running"
    assert "recorded: TaskScheduled" in state.waiting
    assert "test_refusals.py" in state.waiting
    lab.halt(wrong)
    lab.work(registry=registries[0])
    done = lab.client.wait(instance, timeout=15)
    assert (done.status, done.output, done.waiting) == ("Completed", 5, "")


def test_undecodable_input_names_the_field(lab: Any) -> None:
    @lab.orchestrator
    async def counts(ctx: Any, n: int) -> int:
        return n

    lab.work()
    state = lab.client.wait(_start_raw(lab, "counts", '{"a": 1}'), timeout=10)
    assert state.status == "Failed"
    assert "CodecError" in state.failure.error_type
    assert counts.name in state.failure.message or "input" in state.failure.message


def _start_raw(lab: Any, name: str, text: str) -> str:
    """Start past the client's own checks, as another release or language might."""
    from celeriac.celery_app.store import instances
    from celeriac.celery_app.store.records import StartRequest, new_execution
    from celeriac.orchestrations.history import ExecutionStarted

    event = ExecutionStarted(execution=new_execution(), instance=f"raw-{name}", name=name, input=text)
    return lab.store.run(instances.start(lab.store.keys, StartRequest.of(event))).instance


def test_output_that_is_no_json_fails(lab: Any) -> None:
    @lab.orchestrator
    async def odd(ctx: Any) -> Any:
        return object()

    lab.work()
    state = lab.run(odd)
    assert state.status == "Failed"
    assert "object" in state.failure.message


def test_awaiting_a_non_task_fails_with_its_name(lab: Any) -> None:
    @lab.orchestrator
    async def wrong(ctx: Any) -> None:
        await asyncio.sleep(0)  # yields None

    lab.work()
    state = lab.run(wrong)
    assert (state.status, state.failure.error_type) == ("Failed", "builtins.TypeError")


def test_big_payloads_travel_aside(lab: Any) -> None:
    @lab.activity
    def shout(text: str) -> str:
        return text.upper()

    @lab.orchestrator
    async def inner(ctx: Any, text: str) -> str:
        return await ctx.call_activity(shout, text)

    @lab.orchestrator
    async def outer(ctx: Any, text: str) -> list[Any]:
        first = await ctx.call_activity(shout, text)
        child = await ctx.call_sub_orchestrator(inner, text + "child")
        many = await when_all([ctx.call_activity(shout, f"{n}" + text) for n in range(20)])
        event = await ctx.wait_for_external_event("data", str)
        ctx.send_event(event[:8], "data", text)
        return [first, child, [len(m) for m in many], len(event)]

    @lab.orchestrator
    async def receiver(ctx: Any) -> int:
        return len(await ctx.wait_for_external_event("data", str))

    lab.up()
    text = "payload " * 20_000
    lab.client.start(receiver, instance_id="receiver")
    instance = lab.client.start(outer, text)
    lab.client.raise_event(instance, "data", "receiver" + text)
    state = lab.client.wait(instance, timeout=30)
    lengths = [len(text) + len(str(n)) for n in range(20)]
    assert state.output == [text.upper(), text.upper() + "CHILD", lengths, len(text) + 8]
    assert lab.client.wait("receiver", timeout=10).output == len(text)
    scheduled = next(e for e in lab.history(instance) if isinstance(e, TaskScheduled))
    assert scheduled.input.startswith("@")


def test_big_payloads_survive_a_replay(lab: Any) -> None:
    @lab.activity
    def shout(text: str) -> str:
        return text.upper()

    @lab.orchestrator
    async def steps(ctx: Any, text: str) -> int:
        total = 0
        for _ in range(4):
            total += len(await ctx.call_activity(shout, text))
        total += sum(map(len, await when_all([ctx.call_activity(shout, text) for _ in range(40)])))
        await ctx.wait_for_external_event("go")
        return total

    lab.pump()
    lab.work(cache_size=0)
    instance = lab.client.start(steps, "x" * 70_000)
    lab.client.raise_event(instance, "go")
    assert lab.client.wait(instance, timeout=30).output == 44 * 70_000


def test_continue_as_new_carries_big_payloads(lab: Any) -> None:
    @lab.orchestrator
    async def runs(ctx: Any, state: list[Any]) -> list[int]:
        count, text = state
        if count == 3:
            event = await ctx.wait_for_external_event("late", str)
            return [len(text), len(event)]
        await ctx.wait_for_external_event("go")
        return ctx.continue_as_new([count + 1, text + "y"])

    instance = lab.client.start(runs, [0, "x" * 100_000])
    lab.client.raise_event(instance, "late", "z" * 90_000)
    for _ in range(3):
        lab.client.raise_event(instance, "go")
    lab.work()
    assert lab.client.wait(instance, timeout=10).output == [100_003, 90_000]


def test_over_the_limit_fails_what_asked_for_it(lab: Any) -> None:
    @lab.activity
    def take(text: str) -> int:
        return len(text)

    @lab.orchestrator
    async def child(ctx: Any, text: str) -> int:
        return len(text)

    @lab.orchestrator
    async def big(ctx: Any) -> list[str]:
        text, seen = "x" * 2_000_000, []
        for task in (ctx.call_activity(take, text), ctx.call_sub_orchestrator(child, text)):
            try:
                await task
            except TaskFailedError as error:
                seen.append(error.details.error_type.rpartition(".")[2])
        return seen

    @lab.orchestrator
    async def big_output(ctx: Any) -> str:
        return "x" * 2_000_000

    lab.pump()
    lab.work(max_payload=1_000_000)
    state = lab.run(big)
    assert state.output == ["PayloadTooLargeError"] * 2
    kinds = {type(e) for e in lab.history(state.id)}
    assert {TaskFailed, SubOrchestrationInstanceFailed} <= kinds
    failed = lab.run(big_output)
    assert failed.status == "Failed"
    assert "2,000,002 bytes" in failed.failure.message


def test_too_wide_a_step_fails_clearly(lab: Any) -> None:
    @lab.orchestrator
    async def wide(ctx: Any, count: int) -> int:
        timers = [ctx.create_timer(timedelta(hours=1 + n)) for n in range(count)]
        await ctx.wait_for_external_event("go")
        return len(timers)

    lab.work(max_open=20_000)
    instance = lab.client.start(wide, 3000)
    lab.client.raise_event(instance, "go")
    assert lab.client.wait(instance, timeout=20).output == 3000
    lab.until(lambda: lab.store.client.zcard(lab.store.keys.timers) == 0)
    state = lab.run(wide, 12_000)
    assert state.status == "Failed"
    assert "too much at once" in state.failure.message


def test_slow_turn_is_reported_by_name(lab: Any, caplog: Any) -> None:
    @lab.orchestrator
    async def blocks(ctx: Any) -> str:
        time.sleep(0.8)
        return "late"

    lab.work(slow_turn=0.2)
    state = lab.run(blocks)
    assert state.output == "late"
    (record,) = [r for r in caplog.records if "must not block" in r.getMessage()]
    assert state.id in record.getMessage()
    assert "blocks" in record.getMessage()
    assert "test_refusals.py:" in record.getMessage()


def test_an_ended_process_is_charged_and_the_instance_suspended(lab: Any) -> None:
    """Crashes are played by orchestrators that stop beating; see test_processes.py for real ones."""
    from celeriac.celery_app.store import flights, turns

    @lab.orchestrator
    async def poison(ctx: Any) -> str:
        return "swallowed"

    instance = lab.client.start(poison)
    store, keys = lab.store, lab.store.keys
    for n in range(4):
        name = f"o{n}"
        store.run(flights.beat(keys, name, 10_000, join=True))
        (claimed,) = store.run(turns.claim(keys, name, 0, 10))
        assert claimed.alone == (n > 0)
        store.client.zadd(keys.beats, {name: 1})
        store.run(turns.sweep(keys))
        store.run(turns.sweep(keys))
    lab.work()
    state = lab.until(lambda: (s := lab.client.get(instance)).status == "Suspended" and s)
    assert "died 3 times" in state.reason
    lab.client.resume(instance)
    assert lab.client.wait(instance, timeout=10).output == "swallowed"


def test_an_event_to_nobody_is_logged(lab: Any, caplog: Any) -> None:
    @lab.orchestrator
    async def sends(ctx: Any) -> str:
        ctx.send_event("nobody", "hello", 1)
        return "sent"

    lab.work()
    assert lab.run(sends).output == "sent"
    lab.until(lambda: any("nobody" in r.getMessage() for r in caplog.records))


def test_cancelled_child_fails_its_parent_call(lab: Any) -> None:
    @lab.orchestrator
    async def sleeper(ctx: Any) -> None:
        await ctx.wait_for_external_event("never")

    @lab.orchestrator
    async def parent(ctx: Any) -> bool:
        try:
            await ctx.call_sub_orchestrator(sleeper, instance_id="sleeper")
        except TaskFailedError as error:
            return error.is_caused_by(OrchestrationCancelledError)
        return False

    lab.work()
    instance = lab.client.start(parent)
    lab.until(lambda: lab.status("sleeper") == "Running")
    lab.client.cancel("sleeper")
    assert lab.client.wait(instance, timeout=10).output is True


def test_an_activity_that_nobody_starts_in_time_fails(lab: Any) -> None:
    @lab.activity(schedule_to_start=0.3)
    def lonely(n: int) -> int:
        return n

    @lab.orchestrator
    async def hopes(ctx: Any) -> list[Any]:
        first = ""
        try:
            await ctx.call_activity(lonely, 1)
        except TaskFailedError as error:
            first = error.details.message
        many = await when_all([ctx.call_activity(lonely, n) for n in range(3)], return_exceptions=True)
        return [
            first,
            [e.is_caused_by("ActivityTimeoutError") for e in many if isinstance(e, TaskFailedError)],
        ]

    lab.work()
    first, many = lab.run(hopes).output
    assert "lonely was not started by any worker within its schedule_to_start of 0.3 s" in first
    assert many == [True, True, True]
    lab.store.client.delete(lab.settings.queue_key())
