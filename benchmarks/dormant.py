"""W8: instances that wait, half for a timer of 30 days and half for an event: bytes each and idle CPU."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from celeriac.celery_app.store.keys import Keys

from . import workflows
from .machines import Ours
from .measuring import TIMEOUT, check, cpu_seconds, until
from .rows import Row
from .stage import Stage

MONTH = 30 * 86400.0


def dormant(stage: Stage) -> list[Row]:
    """Bytes: growth of Redis' used_memory once everything is quiet. CPU: of all that is needed to keep them,
    orchestrator and Redis together, in percent of one core, over some seconds in which nothing happens.

    One run: the bytes do not vary, and the CPU is measured in as many spans as there are repetitions.
    A sample of those that wait for an event is woken at the end, and must give what it was sent.
    """
    half = stage.n(50_000)
    with stage.site("solo", options=[]) as ours, redis.Redis.from_url(ours.url) as client:
        empty = _quiet(client, 0)
        bytes_each = {}
        for kind, orchestrator, argument in (
            ("timer", workflows.bench_timer, [MONTH, 1]), ("event", workflows.bench_event, None),
        ):  # fmt: skip
            ids = _start(ours, orchestrator, argument, half)
            before, empty = empty, _quiet(client, half * (len(bytes_each) + 1))
            bytes_each[kind] = (empty - before) / half
        check([client.zcard(Keys().path("timers"))], [half])
        seconds = 1.0 if stage.smoke else 10.0
        spans = [_cpu(ours, seconds) for _ in range(stage.repeat)]
        sample = ids[:: max(1, half // 50)]
        for number, instance in enumerate(sample):
            ours.client.raise_event(instance, "go", number)
        woken = [ours.client.wait(instance, timeout=TIMEOUT).output[0] for instance in sample]
        check(woken, list(range(len(sample))))
    kib = sum(bytes_each.values()) / len(bytes_each) / 1024
    facts: dict[str, Any] = {"bytes_of_a": bytes_each, "instances": 2 * half}
    spans_percent = [100 * (span["orchestrator"] + span["redis"]) for span in spans]
    return [
        Row("W8 bytes", f"{2 * half} dormant instances: Redis, each", "KiB", [kib], facts=facts),
        Row("W8 CPU", "the same: orchestrator and Redis, idle", "% of a core", spans_percent,
            facts={"cores": spans, "seconds": seconds}),
    ]  # fmt: skip


def _start(ours: Ours, orchestrator: Any, argument: Any, number: int) -> list[str]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda _: ours.client.start(orchestrator, argument), range(number)))


def _quiet(client: redis.Redis, instances: int) -> int:
    """used_memory, once so many instances run, none is ready or claimed and no file is being rewritten."""
    keys = Keys()

    def settled() -> bool:
        running = client.zcard(keys.of("idx_status", "Running"))
        held = sum(client.scard(key) for key in client.scan_iter(match=keys.path("claims") + "*"))
        info: Any = client.info()
        rewriting = info["aof_rewrite_in_progress"] or info.get("aof_rewrite_scheduled")
        return running == instances and not client.zcard(keys.ready) and not held and not rewriting

    until(settled, TIMEOUT, f"{instances} instances to be dormant")
    found: Any = [client.info("memory") for _ in range(5)]
    return min(info["used_memory"] for info in found)


def _cpu(ours: Ours, seconds: float) -> dict[str, float]:
    """Cores used by the orchestrator and by Redis while nothing happens."""
    pids = {"orchestrator": ours.orchestrators[0].pid, "redis": ours.redis.pid}
    before, begin = {name: cpu_seconds(pid) for name, pid in pids.items()}, time.perf_counter()
    time.sleep(seconds)
    taken = time.perf_counter() - begin
    return {name: (cpu_seconds(pid) - before[name]) / taken for name, pid in pids.items()}
