"""Races of the orchestrator loop, each found by reading and kept here as the story it was."""

from __future__ import annotations

from typing import Any

import pytest


def test_a_graceful_stop_stages_what_its_last_turns_refer_to(lab: Any) -> None:
    """SIGTERM between a turn and its commit: the commit must not go out before the payload it refers to."""
    workers: list[Any] = []

    @lab.activity
    def size(text: str) -> int:
        return len(text)

    @lab.orchestrator
    async def flow(ctx: Any, _: Any = None) -> int:
        if workers:
            workers.pop().stop()
        return await ctx.call_activity("size", "x" * 200_000)

    first = lab.work()
    workers.append(first)
    instance = lab.client.start(flow)
    lab.until(lambda: not workers)
    lab.halt(first)
    lab.up()
    assert lab.client.wait(instance, timeout=20).output == 200_000


def test_an_event_behind_a_window_item_is_applied_once(lab: Any) -> None:
    """Two fan-outs want their next window at once, more than one commit emits; an event came after."""

    @lab.activity
    def echo(n: int) -> int:
        return n

    @lab.orchestrator
    async def flow(ctx: Any, _: Any = None) -> int:
        first, second = (ctx.map(echo, list(range(1200))) for _ in range(2))
        total = sum(await first) + sum(await second)
        await ctx.wait_for_external_event("go")
        return total

    worker = lab.work()
    instance = lab.client.start(flow)
    lab.until(lambda: lab.store.client.llen(lab.settings.queue_key()) >= 800)
    lab.halt(worker)
    pump = lab.pump()
    inbox = lab.store.keys.inbox(instance)
    lab.until(lambda: {b"E0", b"E1200"} <= set(lab.store.client.lrange(inbox, 0, -1)))
    lab.client.raise_event(instance, "go", 1)
    lab.work()
    assert lab.client.wait(instance, timeout=60).output == 2 * sum(range(1200))
    assert lab.kinds(instance).count("EventRaised") == 1
    assert pump.error is None


@pytest.mark.timeout(60)
def refusals(client: Any) -> int:
    """How often Redis answered with an error; 6.2 has none of its own for want of memory inside a script."""
    return sum(found["count"] for found in client.info("errorstats").values())


def test_a_turn_refused_by_a_full_redis_is_taken_again(lab: Any, caplog: Any) -> None:
    """Commit and release are both refused: the claim must not stay with a living orchestrator for ever."""
    client, full = lab.store.client, [True]

    @lab.activity
    def echo(n: int) -> int:
        return n

    @lab.orchestrator
    async def flow(ctx: Any, _: Any = None) -> int:
        if full:
            full.clear()
            client.config_set("maxmemory", 100)
        return await ctx.call_activity(echo, 1)

    lab.work()
    try:
        instance = lab.client.start(flow)
        lab.until(lambda: not full)
        lab.until(lambda: f"the turn of {instance} was refused" in caplog.text)
        before = refusals(client)  # the log says it once; Redis counts the release and the beats too
        lab.until(lambda: refusals(client) >= before + 3)
    finally:
        client.config_set("maxmemory", 0)
    lab.pump()
    assert lab.client.wait(instance, timeout=30).output == 1
