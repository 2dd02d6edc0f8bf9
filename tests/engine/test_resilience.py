"""Several orchestrators, lost claims, lost beats, a Redis that goes away: nothing is lost and nothing done
twice."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from celeriac.celery_app import embedded
from celeriac.celery_app.store import Store, flights, turns
from celeriac.orchestrations import when_all


def test_two_orchestrators_share_the_load(lab: Any) -> None:
    @lab.activity
    def add(n: int) -> int:
        return n + 1

    @lab.orchestrator
    async def steps(ctx: Any, n: int) -> int:
        for _ in range(5):
            n = await ctx.call_activity(add, n)
        return n

    first, second = lab.work(), lab.work()
    lab.pump()
    ids = [lab.client.start(steps, n) for n in range(200)]
    outputs = [lab.client.wait(i, timeout=60).output for i in ids]
    assert outputs == [n + 5 for n in range(200)]
    assert first.turns_taken > 20
    assert second.turns_taken > 20
    for instance in ids:
        assert len(lab.kinds(instance)) == 12


def test_an_execution_that_others_advanced_is_replayed(lab: Any) -> None:
    @lab.orchestrator
    async def gathers(ctx: Any) -> list[int]:
        return [await ctx.wait_for_external_event("n", int) for _ in range(20)]

    instance = lab.client.start(gathers)
    workers: list[Any] = []
    for n in range(20):
        lab.client.raise_event(instance, "n", n)
        if len(workers) < 2:
            workers.append(lab.work())
        lab.until(lambda n=n: lab.kinds(instance).count("EventRaised") > n)
    assert lab.client.wait(instance, timeout=10).output == list(range(20))


def test_graceful_stop_hands_back_at_once(lab: Any) -> None:
    @lab.activity
    def add(n: int) -> int:
        return n + 1

    @lab.orchestrator
    async def steps(ctx: Any, n: int) -> int:
        for _ in range(20):
            n = await ctx.call_activity(add, n)
        return n

    first = lab.work()
    lab.pump()
    ids = [lab.client.start(steps, n) for n in range(50)]
    lab.until(lambda: first.turns_taken > 100)
    lab.halt(first)
    keys = lab.store.keys
    assert lab.store.client.zscore(keys.beats, first.incarnation) is None
    assert not lab.store.client.hexists(keys.procs, first.incarnation)
    assert not lab.store.client.exists(keys.claims(first.incarnation))
    lab.work()
    assert [lab.client.wait(i, timeout=30).output for i in ids] == [n + 20 for n in range(50)]


def test_a_turn_that_lost_its_claim_writes_nothing(lab: Any) -> None:
    running, go_on = threading.Event(), threading.Event()

    @lab.activity
    def noted() -> None:
        raise AssertionError("a fenced turn must not reach a queue")

    @lab.orchestrator
    async def held(ctx: Any) -> None:
        running.set()
        go_on.wait(10)
        await ctx.call_activity(noted)

    pump = lab.up()
    instance = lab.client.start(held)
    assert running.wait(10)
    lab.client.terminate(instance, "now")
    go_on.set()
    assert lab.client.wait(instance, timeout=10).status == "Terminated"
    other = lab.client.start(held)
    lab.until(lambda: pump.ran)
    assert lab.client.wait(other, timeout=10).status == "Failed"
    assert lab.kinds(instance)[-1] == "ExecutionTerminated"
    assert len(pump.ran) == 1


def test_one_that_was_taken_for_dead_goes_on_under_a_new_name(lab: Any) -> None:
    @lab.orchestrator
    async def listener(ctx: Any) -> int:
        return await ctx.wait_for_external_event("go", int)

    worker = lab.work()
    instance = lab.client.start(listener)
    lab.until(lambda: lab.status(instance) == "Running")
    before = worker.incarnation
    lab.store.client.zadd(lab.store.keys.beats, {before: 0})
    lab.client.raise_event(instance, "go", 3)
    assert lab.client.wait(instance, timeout=10).output == 3
    assert worker.incarnation != before


@pytest.mark.parametrize("cache_size", [0, 1, 1000])
def test_cache_size_changes_nothing(lab: Any, cache_size: int) -> None:
    @lab.activity
    def add(n: int) -> int:
        return n + 1

    @lab.orchestrator
    async def mixed(ctx: Any, n: int) -> int:
        for _ in range(4):
            n = await ctx.call_activity(add, n)
            n = sum(await when_all([ctx.call_activity(add, n) for _ in range(3)]))
        return n

    lab.work(cache_size=cache_size)
    lab.pump()
    ids = [lab.client.start(mixed, 1) for _ in range(10)]
    assert {lab.client.wait(i, timeout=30).output for i in ids} == {321}


def test_redis_killed_and_restarted(lab: Any, tmp_path: Path) -> None:
    @lab.orchestrator
    async def naps(ctx: Any) -> int:
        for _ in range(40):
            await ctx.create_timer(timedelta(milliseconds=20))
        return 40

    server = embedded.start(tmp_path, appendfsync="always")
    try:
        settings = replace(lab.settings, redis_url=server.url)
        other = type(lab)(settings, Store.connect(settings), registry=lab.registry)
        worker = other.work()
        before = worker.incarnation
        ids = [other.client.start(naps) for _ in range(5)]
        lab.until(lambda: worker.turns_taken > 40)
        server.kill()
        server.restart()
        assert [other.client.wait(i, timeout=60).output for i in ids] == [40] * 5
        assert worker.incarnation != before
        other.close()
        other.store.close()
    finally:
        server.stop()


def test_a_process_that_joins_tries_what_others_wait_for(lab: Any) -> None:
    @lab.orchestrator
    async def plain(ctx: Any) -> int:
        return 1

    instance = lab.client.start(plain)
    lab.store.run(flights.beat(lab.store.keys, "o1", 60_000, info="{}", join=True))
    (claimed,) = lab.store.run(turns.claim(lab.store.keys, "o1", 0, 10))
    lab.store.run(turns.release(lab.store.keys, instance, claimed.claim, 600_000, "not served here"))
    lab.work()
    assert lab.client.wait(instance, timeout=30).output == 1
