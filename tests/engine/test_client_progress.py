"""What `progress`, `purge` and `restart` see of instances that the real engine runs."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac.celery_app.client.progress import StepState
from celeriac.celery_app.client.sync import AsyncClient, Status
from celeriac.celery_app.store import steps
from celeriac.orchestrations import RetryPolicy, when_all, when_any
from celeriac.orchestrations.errors import InstanceNotFoundError, InvalidArgumentError


@pytest.fixture
def gate() -> Any:
    made = threading.Event()
    yield made
    made.set()


def test_a_tree_of_children_timers_and_running_activities(lab: Any, gate: threading.Event) -> None:
    @lab.activity
    def long(n: int) -> int:
        gate.wait(20)
        return n

    @lab.orchestrator
    async def child(ctx: Any, n: int) -> int:
        return await ctx.call_activity(long, n)

    @lab.orchestrator
    async def parent(ctx: Any) -> list[int]:
        children = [ctx.call_sub_orchestrator(child, n, instance_id=f"c{n}") for n in range(2)]
        ctx.create_timer(timedelta(hours=1))
        return await when_all(children)

    pump = lab.up()
    lab.client.start(parent, instance_id="p")
    lab.until(lambda: {i.state.id for i in lab.client.progress("p").walk()} == {"p", "c0", "c1"})
    lab.until(
        lambda: any(a.state == "running" for i in lab.client.progress("p").walk() for a in i.activities)
    )
    tree = lab.client.progress("p")
    assert tree.state.status is Status.RUNNING
    assert {c.state.parent_id for c in tree.children} == {"p"}
    (timer,) = tree.timers
    assert timedelta(minutes=59) < timer.due - datetime.now(UTC) <= timedelta(hours=1)
    running = [a for c in tree.children for a in c.activities if a.state is StepState.RUNNING]
    assert running[0].worker == pump.incarnation
    assert (running[0].name, running[0].attempt) == ("long", 1)
    assert running[0].since is not None
    payload = tree.to_payload()
    assert payload["children"][0]["parentInstanceId"] == "p"
    assert payload["timers"][0]["due"].endswith("Z")
    assert lab.client.progress("p", depth=0).children == ()
    assert {p.kind for p in lab.client.workers()} >= {"orchestrator"}

    async def seen() -> set[str]:
        async with AsyncClient(settings=lab.settings, registry=lab.registry) as client:
            return {i.state.id for i in (await client.progress("p")).walk()}

    assert asyncio.run(seen()) == {"p", "c0", "c1"}
    gate.set()
    assert lab.client.wait("p", 20).output == [0, 1]
    done = lab.client.progress("p")
    assert (done.children, done.activities, done.timers) == ((), (), ())
    with pytest.raises(InvalidArgumentError):
        lab.client.progress("p", depth=-1)


def test_running_activities_show_their_tags_and_what_their_heartbeats_told(
    lab: Any, gate: threading.Event
) -> None:
    @lab.activity
    def long(n: int) -> int:
        gate.wait(20)
        return n

    @lab.orchestrator
    async def flow(ctx: Any) -> list[int]:
        calls = [ctx.call_activity(long.with_options(tags={"part": str(n)}), n) for n in range(2)]
        return await when_all(calls)

    lab.up()
    lab.client.start(flow, instance_id="a")
    lab.until(lambda: any(x.state is StepState.RUNNING for x in lab.client.progress("a").activities))
    running = [x for x in lab.client.progress("a").activities if x.state is StepState.RUNNING]
    assert all(activity.tags == {"part": str(activity.seq)} for activity in running)
    first, execution = running[0], lab.client.get("a").execution
    note = '{"rows":7}'
    assert lab.store.run(steps.arm(lab.store.keys, "a", execution, first.seq, 1, starts=False, note=note))
    assert not lab.store.run(
        steps.arm(lab.store.keys, "a", execution, first.seq, 2, starts=False, note='"stale"')
    )
    told = {x.seq: x.progress for x in lab.client.progress("a").activities}
    assert told[first.seq] == {"rows": 7}
    assert {"rows": 7} in [x.get("progress") for x in lab.client.progress("a").to_payload()["activities"]]
    gate.set()
    assert lab.client.wait("a", 20).output == [0, 1]


def test_a_fan_out_shows_how_far_it_is(lab: Any, gate: threading.Event) -> None:
    @lab.activity
    def part(n: int) -> int:
        if n == 30:
            gate.wait(20)
        return n

    @lab.orchestrator
    async def wide(ctx: Any) -> int:
        return len(await when_all([ctx.call_activity(part, n) for n in range(31)]))

    lab.work()
    lab.client.start(wide, instance_id="w")
    lab.until(lambda: lab.client.progress("w").groups)
    (group,) = lab.client.progress("w").groups
    assert (group.name, group.size, group.done, group.failed) == ("part", 31, 0, 0)
    lab.pump()
    gate.set()
    assert lab.client.wait("w", 20).output == 31


def test_a_retry_shows_until_when_it_is_parked(lab: Any) -> None:
    @lab.activity
    def failing() -> None:
        raise OSError("the gateway is down")

    policy = RetryPolicy(timedelta(minutes=5), 3)

    @lab.orchestrator
    async def flow(ctx: Any) -> None:
        await when_any([ctx.call_activity(failing.with_options(retry=policy))])

    lab.up()
    lab.client.start(flow, instance_id="a")
    lab.until(
        lambda: any(a.state is StepState.RETRYING for a in lab.client.progress("a").activities),
        what="the retry to be parked",
    )
    (activity,) = lab.client.progress("a").activities
    assert activity.attempt == 2
    assert activity.retry_at is not None
    assert timedelta(minutes=4) < activity.retry_at - datetime.now(UTC) <= timedelta(minutes=5)
    assert [f.message for f in activity.failures] == ["the gateway is down"]
    assert lab.client.progress("a").to_payload()["activities"][0]["failures"][0]["number"] == 1
    lab.client.terminate("a")


def test_purge_takes_the_children_along(lab: Any) -> None:
    @lab.orchestrator
    async def leaf(ctx: Any, n: int) -> int:
        return n

    @lab.orchestrator
    async def middle(ctx: Any, n: int) -> int:
        return await ctx.call_sub_orchestrator(leaf, n)

    @lab.orchestrator
    async def top(ctx: Any) -> int:
        return sum(await when_all([ctx.call_sub_orchestrator(middle, n) for n in range(3)]))

    lab.work()
    lab.client.start(top, instance_id="t")
    assert lab.client.wait("t", 20).output == 3
    assert len(lab.client.list()) == 7
    assert lab.client.purge("t") == 7
    assert len(lab.client.list()) == 0
    with pytest.raises(InstanceNotFoundError):
        lab.client.get("t")


def test_purge_takes_the_children_of_earlier_runs_along(lab: Any) -> None:
    @lab.orchestrator
    async def leaf(ctx: Any, n: int) -> int:
        return n

    @lab.orchestrator
    async def eternal(ctx: Any, n: int) -> int:
        await ctx.call_sub_orchestrator(leaf, n, instance_id=f"leaf-{n}")
        if n < 3:
            ctx.continue_as_new(n + 1)
        return n

    lab.work()
    lab.client.start(eternal, 0, instance_id="t")
    assert lab.client.wait("t", 20).output == 3
    assert lab.client.purge("leaf-1") == 1
    lab.client.start("leaf", 2, instance_id="leaf-2")  # from now on nobody's child
    assert lab.client.wait("leaf-2", 20).output == 2
    assert lab.client.purge("t") == 3
    assert [state.id for state in lab.client.list()] == ["leaf-2"]


def test_a_restarted_instance_keeps_the_children_it_had(lab: Any) -> None:
    @lab.orchestrator
    async def leaf(ctx: Any) -> int:
        return 1

    @lab.orchestrator
    async def top(ctx: Any) -> int:
        return await ctx.call_sub_orchestrator(leaf, instance_id=f"leaf-{ctx.new_uuid()}")

    lab.work()
    lab.client.start(top, instance_id="t")
    lab.client.wait("t", 20)
    lab.client.restart("t")
    lab.client.wait("t", 20)
    assert len(lab.client.list()) == 3
    assert lab.client.purge("t") == 3


def test_restart_runs_the_whole_instance_again(lab: Any) -> None:
    @lab.activity
    def size(text: str) -> int:
        return len(text)

    @lab.orchestrator
    async def flow(ctx: Any, text: str) -> int:
        return await ctx.call_activity(size, text)

    lab.up()
    text = "x" * 100_000
    lab.client.start(flow, text, instance_id="a")
    assert lab.client.wait("a", 20).output == 100_000
    first = lab.client.get("a").execution
    assert lab.client.restart("a") == "a"
    again = lab.client.wait("a", 20)
    assert (again.output, again.input) == (100_000, text)
    assert again.execution != first
    assert lab.client.wait(lab.client.restart("a", "b"), 20).output == 100_000


def test_a_cancelled_instance_may_be_waited_for(lab: Any) -> None:
    @lab.orchestrator
    async def sleeper(ctx: Any) -> None:
        await ctx.wait_for_external_event("never")

    lab.work()
    lab.client.start(sleeper, instance_id="a")
    lab.until(lambda: lab.status("a") == "Running")
    lab.client.cancel("a", "not wanted")
    state = lab.client.wait("a", 20)
    assert (state.status, state.reason) == (Status.CANCELLED, "not wanted")


def test_a_delayed_start_runs_when_it_is_due(lab: Any) -> None:
    @lab.orchestrator
    async def flow(ctx: Any) -> str:
        return "done"

    lab.work()
    before = datetime.now(UTC)
    lab.client.start(flow, instance_id="later", start_at=timedelta(seconds=0.7))
    state = lab.client.wait("later", 20)
    assert state.output == "done"
    assert state.updated_at - before >= timedelta(seconds=0.6)
