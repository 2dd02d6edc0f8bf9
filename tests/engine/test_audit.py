"""What was lost is made anew from the history by real orchestrators: messages, parts, retries, timers."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest

from celeriac.celery_app.doctor import examine
from celeriac.celery_app.store import audit
from celeriac.orchestrations import RetryPolicy, TaskFailedError


@pytest.fixture
def here(lab: Any) -> Any:
    """The laboratory with the workflows of these tests."""
    runs: list[str] = []

    @lab.activity
    def double(n: int) -> int:
        return n * 2

    @lab.activity(queue="other")
    def aside(n: int) -> int:
        return n * 2

    @lab.activity(retry=RetryPolicy(timedelta(seconds=600), 2))
    def second_time(key: str) -> str:
        runs.append(key)
        if len(runs) == 1:
            raise ConnectionError("not yet")
        return key

    @lab.orchestrator
    async def single(ctx: Any, n: int) -> int:
        return await ctx.call_activity(double, n)

    @lab.orchestrator
    async def wide(ctx: Any, size: int) -> int:
        return sum(await ctx.map(double, list(range(size))))

    @lab.orchestrator
    async def long_ago(ctx: Any, events: int) -> int:
        task = ctx.call_activity(aside, 21)
        for _ in range(events):
            await ctx.wait_for_external_event("go")
        return await task

    @lab.orchestrator
    async def retried(ctx: Any, key: str) -> str:
        return await ctx.call_activity(second_time, key)

    @lab.orchestrator
    async def sleeper(ctx: Any, seconds: float) -> str:
        await ctx.create_timer(timedelta(seconds=seconds))
        return "awake"

    unlucky_one(lab, double)
    return lab


def unlucky_one(lab: Any, double: Any) -> None:
    """An orchestrator that says how its activity failed."""

    @lab.orchestrator
    async def unlucky(ctx: Any, n: int) -> str:
        try:
            await ctx.call_activity(double, n)
        except TaskFailedError as error:
            return f"{error.details.error_type}: {error.details.message}"
        return "no error"


def mended(lab: Any) -> dict[str, int]:
    return lab.store.run(audit.mended(lab.store.keys))


def open_steps(lab: Any, instance: str) -> str:
    return lab.store.keys.open(lab.client.get(instance).execution)


def test_a_deleted_queue(here: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Single steps of many instances; the log names some, doctor counts them all."""
    here.work()
    here.work()
    ids = [here.client.start("single", n) for n in range(30)]
    queue = here.settings.queue_key()
    here.until(lambda: here.store.client.llen(queue) == 30)
    with caplog.at_level(logging.WARNING, "celeriac.orchestrator"):
        here.store.client.delete(queue)
        here.until(lambda: mended(here).get("message") == 30)
    here.pump()
    assert [here.client.wait(i, timeout=30).output for i in ids] == [n * 2 for n in range(30)]
    assert "was lost and is sent again" in caplog.text
    assert mended(here) == {"message": 30}
    assert examine(here.settings).facts["Mended by the audit"] == {"message": 30}
    assert [name for name, _ in here.pumps[0].ran] == ["double"] * 30


def test_parts_of_a_window(here: Any) -> None:
    """A fan-out wider than its window loses its messages; each part runs, once."""
    here.work(window=100)
    instance = here.client.start("wide", 2500)
    queue = here.settings.queue_key()
    here.until(lambda: here.store.client.llen(queue) == 100)
    here.store.client.delete(queue)
    pump = here.pump()
    assert here.client.wait(instance, timeout=60).output == sum(range(2500)) * 2
    assert mended(here) == {"message": 100}
    assert len(pump.ran) == 2500


def test_a_step_opened_long_ago_on_another_queue(here: Any) -> None:
    here.work()
    queue = here.settings.queue_key("other")
    instance = here.client.start("long_ago", 600)
    here.until(lambda: here.store.client.llen(queue) == 1)
    for _ in range(600):
        here.client.raise_event(instance, "go")
    here.until(lambda: len(here.history(instance)) > 600)
    here.store.client.delete(queue)
    here.until(lambda: here.store.client.llen(queue) == 1)
    assert mended(here) == {"message": 1}
    here.client.terminate(instance)
    here.store.client.delete(queue)


def test_a_lost_retry(here: Any) -> None:
    """It comes at once instead of never: when it was due is lost with it."""
    here.up()
    instance = here.client.start("retried", "r1")
    here.until(lambda: here.store.client.zcard(here.store.keys.parked) == 1)
    here.store.client.delete(here.store.keys.parked, here.store.keys.parked_body)
    assert here.client.wait(instance, timeout=30).output == "r1"
    assert mended(here) == {"retry": 1}


def test_a_lost_timer(here: Any) -> None:
    """It fires at the time that the history says."""
    here.work()
    instance = here.client.start("sleeper", 3600)
    timers = here.store.keys.timers
    here.until(lambda: here.store.client.zcard(timers) == 1)
    before = here.store.client.zrange(timers, 0, -1, withscores=True)
    here.store.client.delete(timers)
    here.until(lambda: here.store.client.zcard(timers) == 1)
    assert here.store.client.zrange(timers, 0, -1, withscores=True) == before
    here.client.terminate(instance)


def test_lost_again_and_again(here: Any) -> None:
    """After so many times it fails, with a type of its own, by its retry policy."""
    here.work(max_resends=2)
    instance = here.client.start("unlucky", 1)
    queue = here.settings.queue_key()
    here.until(lambda: here.store.client.llen(queue) == 1)
    (field,) = [f for f in here.store.client.hkeys(open_steps(here, instance)) if f.isdigit()]
    here.store.client.hset(open_steps(here, instance), f"l{field.decode()}", "2 1")
    here.store.client.delete(queue)
    output = here.client.wait(instance, timeout=30).output
    assert "ActivityMessageLostError" in output
    assert "sent again 2 times" in output
    assert mended(here) == {"given_up": 1}
