"""The workloads: each runs once on one side, checks every result and returns the seconds it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import chain, chord
from celery.canvas import Signature
from celery.result import AsyncResult

from celeriac.celery_app import Client

from . import raw_app
from .workflows import bench_fan_out, bench_sequence

TIMEOUT = 120


@dataclass(frozen=True)
class Workload:
    key: str
    title: str
    steps: int  # activities in one run, for the rate
    raw: Callable[[], float]
    ours: Callable[[Client], float]


def check(results: list[Any], expected: Any) -> None:
    wrong = [r for r in results if r != expected]
    if wrong:
        raise AssertionError(
            f"{len(wrong)} of {len(results)} results are wrong, e.g. {wrong[0]!r}: want {expected!r}"
        )


def timed(start: Callable[[], list[Any]], finish: Callable[[list[Any]], list[Any]], expected: Any) -> float:
    """Seconds from the first start call to the last result seen by this process."""
    begin = time.perf_counter()
    results = finish(start())
    seconds = time.perf_counter() - begin
    check(results, expected)
    return seconds


def collect(handles: list[AsyncResult]) -> list[Any]:
    # follow_parents=False: otherwise get() re-reads every parent of a chain, to raw Celery's disadvantage.
    values = [h.get(timeout=TIMEOUT, follow_parents=False) for h in handles]
    for handle in handles:
        handle.forget()
    return values


def link(*args: int) -> Signature:
    """One link of a raw chain."""
    return Signature("raw.add", args=args, app=raw_app.app)


def single(value: int) -> Signature:
    """One part of a raw chord."""
    return Signature("raw.echo", args=(value,), app=raw_app.app)


def sequence(instances: int, steps: int) -> tuple[Callable[[], float], Callable[[Client], float]]:
    def raw() -> float:
        graph = chain(link(0, 0), *(link(i) for i in range(1, steps)))
        return timed(lambda: [graph.apply_async() for _ in range(instances)], collect, sum(range(steps)))

    def ours(client: Client) -> float:
        return timed(
            lambda: [client.start(bench_sequence, steps) for _ in range(instances)],
            lambda ids: [client.wait(i, timeout=TIMEOUT).output for i in ids],
            sum(range(steps)),
        )

    return raw, ours


def fan_out(instances: int, width: int) -> tuple[Callable[[], float], Callable[[Client], float]]:
    def raw() -> float:
        def start() -> list[Any]:
            return [
                chord(single(i) for i in range(width))(Signature("raw.total", app=raw_app.app))
                for _ in range(instances)
            ]

        return timed(start, collect, sum(range(width)))

    def ours(client: Client) -> float:
        return timed(
            lambda: [client.start(bench_fan_out, width) for _ in range(instances)],
            lambda ids: [client.wait(i, timeout=TIMEOUT).output for i in ids],
            sum(range(width)),
        )

    return raw, ours


def workloads(scale: float = 1.0) -> list[Workload]:
    """All of them; `scale` makes them smaller, for a check of correctness."""

    def n(full: int) -> int:
        return max(2, int(full * scale))

    return [
        Workload("W1", f"one sequence of {n(100)}", n(100), *sequence(1, n(100))),
        Workload("W2", f"{n(400)} sequences of 5", n(400) * 5, *sequence(n(400), 5)),
        Workload("W3", f"one fan-out of {n(1000)}", n(1000), *fan_out(1, n(1000))),
        Workload("W3b", f"{n(100)} fan-outs of 10", n(100) * 10, *fan_out(n(100), 10)),
    ]
