"""The workloads that raw Celery can do too: each runs once on one side, checks every result, and returns its
figure: seconds, or for the drain no-ops or steps per second.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from celery import chain, chord
from celery.canvas import Signature

from .machines import Ours, Raw
from .measuring import TIMEOUT, check, until
from .workflows import bench_fan_out, bench_sequence, bench_timer


@dataclass(frozen=True)
class Paired:
    """A workload with a counterpart. `rate`: the figures are per second, else seconds."""

    key: str
    title: str
    steps: int  # activities in one run, for the rate
    raw: Callable[[Raw], float]
    ours: Callable[[Ours], float]
    rate: bool = False
    against: str = "raw Celery"


def timed(
    start: Callable[[], list[Any]], finish: Callable[[list[Any]], list[Any]], expected: list[Any]
) -> float:
    """Seconds from the first start call to the last result seen by this process."""
    begin = time.perf_counter()
    results = finish(start())
    seconds = time.perf_counter() - begin
    check(results, expected)
    return seconds


def raw_run(raw: Raw, graphs: list[Any], expected: list[Any], **options: Any) -> float:
    """The same for raw Celery. To its advantage its graphs are built before, and its results removed after,
    the clock runs. Each is sent once: a chain that is sent again uses the task id of its end again.
    """
    raw.app.set_current()
    handles: list[Any] = []

    def start() -> list[Any]:
        handles.extend(graph.apply_async(**options) for graph in graphs)
        return handles

    # follow_parents=False: otherwise get() re-reads every parent of a chain, to raw Celery's disadvantage.
    seconds = timed(
        start, lambda made: [h.get(timeout=TIMEOUT, follow_parents=False) for h in made], expected
    )
    check([len({handle.id for handle in handles})], [len(expected)])
    for handle in handles:
        handle.forget()
    return seconds


def our_run(ours: Ours, orchestrator: Any, inputs: list[Any], expected: list[Any]) -> float:
    """Start an instance for each input and wait for all."""
    client = ours.client
    return timed(
        lambda: [client.start(orchestrator, each) for each in inputs],
        lambda ids: [client.wait(i, timeout=TIMEOUT).output for i in ids],
        expected,
    )


def signature(raw: Raw, name: str, *args: int) -> Signature:
    """A call of one of raw Celery's tasks."""
    return Signature(name, args=args, app=raw.app)


def sequence(key: str, title: str, instances: int, steps: int) -> Paired:
    """W1, W2: instances of so many sequential activities, all started at once; a chain each.

    Each instance has numbers of its own, so that no result can stand for another's.
    """
    inputs = [[steps, number * steps] for number in range(instances)]
    expected = [sum(range(first, first + steps)) for _, first in inputs]

    def raw(side: Raw) -> float:
        graphs = [
            chain(
                signature(side, "raw.add", 0, first),
                *(signature(side, "raw.add", i) for i in range(first + 1, first + steps)),
                app=side.app,
            )
            for _, first in inputs
        ]
        return raw_run(side, graphs, expected)

    def ours(side: Ours) -> float:
        return our_run(side, bench_sequence, inputs, expected)

    return Paired(key, title, instances * steps, raw, ours)


def fan_out(key: str, title: str, instances: int, width: int) -> Paired:
    """W3, W3b: so many parallel activities, then one that takes their sum; a chord each."""
    inputs = [[width, number * width] for number in range(instances)]
    expected = [sum(range(first, first + width)) for _, first in inputs]

    def raw(side: Raw) -> float:
        graphs = [
            chord(
                [signature(side, "raw.echo", i) for i in range(first, first + width)],
                body=signature(side, "raw.total"), app=side.app,
            )
            for _, first in inputs
        ]  # fmt: skip
        return raw_run(side, graphs, expected)

    def ours(side: Ours) -> float:
        return our_run(side, bench_fan_out, inputs, expected)

    return Paired(key, title, instances * (width + 1), raw, ours)


def timers(instances: int, wait: float) -> Paired:
    """W4: seconds beyond the wait, from the first start call; ours sleep and then run an activity, raw Celery
    publishes that task with a countdown.
    """
    expected = list(range(instances))

    def raw(side: Raw) -> float:
        calls = [signature(side, "raw.echo", i) for i in expected]
        return max(0.001, raw_run(side, calls, expected, countdown=wait) - wait)

    def ours(side: Ours) -> float:
        return max(0.001, our_run(side, bench_timer, [[wait, i] for i in expected], expected) - wait)

    return Paired("W4", f"{instances} timers of {wait:g} s, beyond the wait", instances, raw, ours)


# --- the physical limit of stock Celery ------------------------------------------------------------


def drain(raw: Raw, tasks: int) -> float:
    """No-ops per second that the workers of raw Celery take from a queue which was full before they began.

    They are told to consume it by Celery's own remote control, and measured from when the first twentieth
    is acknowledged, so that no start is measured. Every one must have run.
    """
    raw.app.set_current()
    queue, everyone = (
        f"drain-{secrets.token_hex(4)}",
        {"reply": True, "limit": len(raw.workers), "timeout": 30},
    )
    before = _ran(raw)
    with raw.app.producer_pool.acquire(block=True) as producer:
        for _ in range(tasks):
            raw.app.send_task("raw.noop", queue=queue, ignore_result=True, producer=producer)
    with redis.Redis.from_url(raw.url) as client:

        def left() -> int:
            with client.pipeline(transaction=True) as pipe:
                pipe.llen(queue)
                pipe.hlen("unacked")
                queued, unacked = pipe.execute()
            return queued + unacked

        raw.app.control.add_consumer(queue, **everyone)
        until(lambda: left() <= tasks * 0.95, TIMEOUT, f"the first tasks of {queue}")
        first, begin = left(), time.perf_counter()
        while left():
            if time.perf_counter() - begin > TIMEOUT:
                raise TimeoutError(f"{left()} of {tasks} no-ops are not done")
            time.sleep(0.002)
        seconds = time.perf_counter() - begin
    raw.app.control.cancel_consumer(queue, **everyone)
    check([_ran(raw) - before], [tasks])
    return max(first, 1) / max(seconds, 0.001)


def _ran(raw: Raw) -> int:
    """No-ops that the workers say they have begun."""
    replies = raw.app.control.broadcast("stats", reply=True, limit=len(raw.workers), timeout=30)
    found = [stats["total"].get("raw.noop", 0) for reply in replies or () for stats in reply.values()]
    if len(found) != len(raw.workers):
        raise TimeoutError(f"{len(found)} of {len(raw.workers)} workers answered")
    return sum(found)


def against_drain(steps_run: Paired, tasks: int) -> Paired:
    """W2 in steps per second beside what stock Celery drains; ours must start, record and report too."""
    return Paired(
        "W2/drain", f"{steps_run.title}, steps/s : no-ops/s drained", steps_run.steps,
        lambda side: drain(side, tasks), lambda side: steps_run.steps / steps_run.ours(side),
        rate=True, against="drain of stock Celery",
    )  # fmt: skip


def paired(scale: float, wait: float) -> list[Paired]:
    """All of them; `scale` makes them smaller, `wait` is the timer of W4."""

    def n(full: int) -> int:
        return max(2, round(full * scale))

    w2 = sequence("W2", f"{n(400)} sequences of 5", n(400), 5)
    return [
        sequence("W1", f"one sequence of {n(100)}", 1, n(100)),
        w2,
        against_drain(w2, max(40, n(2000))),
        fan_out("W3", f"one fan-out of {n(1000)}", 1, n(1000)),
        fan_out("W3b", f"{n(100)} fan-outs of 10", n(100), 10),
        timers(n(2000), wait),
    ]
