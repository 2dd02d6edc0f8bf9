"""The workloads that raw Celery has nothing beside: W5 to W7 and W9. W8 and W10 have modules of their own.

Each runs its repetitions, checks every result and returns its rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import redis

from celeriac.celery_app.store.keys import Keys
from celeriac.orchestrations.history import (
    AnyEvent,
    ExecutionCompleted,
    ExecutionStarted,
    PartOutcome,
    TaskCompleted,
    TaskScheduled,
    decode_event,
    encode_event,
)
from celeriac.orchestrations.replay import Execution
from celeriac.orchestrations.turn import Completed

from . import workflows
from .machines import Ours
from .measuring import TIMEOUT, check, memory, percentile, until
from .rows import MB, Row
from .stage import Stage
from .workloads import our_run

PER_SECOND = 20  # W7


# --- W5: does a step cost more, the longer the history is? -----------------------------------------


def flat_cost(stage: Stage) -> list[Row]:
    """One long sequence: time of the last tenth of its steps : first tenth, by the times in its history."""
    steps = stage.n(10_000, least=100)
    part = steps // 10
    rows = []
    for shape in stage.shapes:
        ratios, first, last = [], [], []
        with stage.site(shape) as ours:
            our_run(
                ours, workflows.bench_sequence, [[part, 0]], [sum(range(part))]
            )  # unmeasured: everybody is warm
            for _ in range(stage.repeat):
                instance = ours.client.start(workflows.bench_sequence, [steps, 0])
                check([ours.client.wait(instance, timeout=TIMEOUT).output], [sum(range(steps))])
                history = ours.client.history(instance)
                at = [history[0].at, *(event.at for event in history if isinstance(event, TaskCompleted))]
                check([len(at)], [steps + 1])
                first.append((at[part] - at[0]) / part)
                last.append((at[-1] - at[-1 - part]) / part)
                ratios.append(last[-1] / max(first[-1], 0.001))
        facts = {"first_ms_per_step": first, "last_ms_per_step": last, "steps": steps}
        title = f"sequence of {steps}: last {part} steps : first {part}"
        rows.append(Row("W5", title, "ratio", ratios, shape, facts=facts))
    return rows


# --- W6: one wide fan-out ----------------------------------------------------------------------------


def wide(stage: Stage) -> list[Row]:
    """The peak memory of a fresh orchestrator (VmHWM) and the size of the history in Redis.

    The map runs once: sizes do not vary as times do. What is put aside (parts, results) is told beside it.
    """
    width, items = stage.n(10_000, least=20), stage.n(1_000_000 if stage.million else 100_000, least=50)
    shape = stage.shapes[-1]
    runs = [_wide(stage, shape, workflows.bench_fan_out, [width, 0], width) for _ in range(stage.repeat)]
    run = _wide(stage, shape, workflows.bench_map, [items, 500], items)
    return [
        Row(
            "W6 fan-out memory", f"fan-out of {width}: orchestrator's peak", "MiB",
            [each["peak_mib"] for each in runs], shape, facts={"runs": runs},
        ),
        Row("W6 map memory", f"map of {items}: the same", "MiB", [run["peak_mib"]], shape, facts=run),
        Row("W6 map history", f"map of {items}: history", "MiB", [run["history_mib"]], shape, facts=run),
    ]  # fmt: skip


def _wide(stage: Stage, shape: str, orchestrator: Any, argument: Any, size: int) -> dict[str, Any]:
    with stage.site(shape) as ours:
        pid = ours.orchestrators[0].pid
        before = memory(pid, "VmRSS")
        begin = time.perf_counter()
        instance = ours.client.start(orchestrator, argument)
        state = ours.client.wait(instance, timeout=TIMEOUT)
        seconds = time.perf_counter() - begin
        check([state.status.value, state.output], ["Completed", sum(range(size))])
        peak = memory(pid)
        with redis.Redis.from_url(ours.url) as client:
            keys = Keys()
            history: Any = client.lrange(keys.of("hist", instance), 0, -1)
            aside = client.memory_usage(keys.of("pay", state.execution), samples=0)
    return {
        "seconds": seconds,
        "parts_per_second": size / seconds,
        "peak_mib": peak / MB,
        "before_mib": before / MB,
        "history_mib": sum(map(len, history)) / MB,
        "history_events": len(history),
        "aside_mib": (aside or 0) / MB,
    }


# --- W7: latency -------------------------------------------------------------------------------------


def latency(stage: Stage) -> list[Row]:
    """p50 and p99, in ms, at 20 a second whatever the answers take: from the client's call until the first
    activity runs, and until the code after the await of an event runs. Both read the machine's one clock.
    """
    number = stage.n(200, least=20)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for shape in stage.shapes:
        with stage.site(shape) as ours:
            _starts(ours, 10)  # unmeasured
            for _ in range(stage.repeat):
                found.setdefault(("start", shape), []).append(_starts(ours, number))
                found.setdefault(("event", shape), []).append(_events(ours, number))
    titles = {"start": "start to the first activity", "event": "event to the code after the await"}
    return [
        Row(
            f"W7 {kind} p{part:.0%}".rstrip("%"), f"{titles[kind]}, p{part:.0%}".rstrip("%"), "ms",
            [percentile(run, part) * 1000 for run in runs], shape,
            facts={"worst_ms": max(map(max, runs)) * 1000},
        )
        for (kind, shape), runs in found.items()
        for part in (0.5, 0.99)
    ]  # fmt: skip


def _paced(number: int, call: Callable[[int], None]) -> list[float]:
    """Call at the rate of the workload; when each call was made (seconds since the epoch)."""
    begin, calls = time.monotonic(), []
    for i in range(number):
        time.sleep(max(0.0, begin + i / PER_SECOND - time.monotonic()))
        calls.append(time.time())
        call(i)
    return calls


def _latencies(ours: Ours, ids: list[str], calls: list[float]) -> list[float]:
    outputs = [ours.client.wait(i, timeout=TIMEOUT).output for i in ids]
    check([value for value, _ in outputs], list(range(len(ids))))
    return [ran - called for (_, ran), called in zip(outputs, calls, strict=True)]


def _starts(ours: Ours, number: int) -> list[float]:
    ids: list[str] = []
    calls = _paced(number, lambda i: ids.append(ours.client.start(workflows.bench_clock, i)))
    return _latencies(ours, ids, calls)


def _events(ours: Ours, number: int) -> list[float]:
    client = ours.client
    ids = [client.start(workflows.bench_event) for _ in range(number)]
    for instance in ids:
        until(lambda i=instance: client.get(i).custom_status == "waiting", TIMEOUT, "instances to wait")
    return _latencies(ours, ids, _paced(number, lambda i: client.raise_event(ids[i], "go", i)))


# --- W9: replay ----------------------------------------------------------------------------------------


class _Inline:
    """Payloads of a history that refers to none."""

    def text(self, ref: str, /) -> str:
        return ref

    def group(self, seq: int, /) -> list[PartOutcome]:
        raise AssertionError(f"no group was scheduled, least of all {seq}")


def replaying(stage: Stage) -> list[Row]:
    """Events a second of a sequential history, from the bytes that Redis holds: decoding and replay.

    In this process, without Redis, and by this process' CPU time, since others may run beside it.
    """
    steps = stage.n(5000)
    execution = ExecutionStarted(
        at=1, execution="e", instance="i", name=workflows.bench_sequence.definition.name, input=f"[{steps},0]"
    )
    events: list[AnyEvent] = [execution]
    for n in range(steps):
        events.append(TaskScheduled(at=1, seq=n, name=workflows.echo.name, input=f"[[{n}],{{}}]"))
        events.append(TaskCompleted(at=1, seq=n, result=str(n)))
    events.append(ExecutionCompleted(at=1, output=str(sum(range(steps)))))
    stored = [encode_event(event) for event in events]
    whole, alone = [], []
    for _ in range(stage.repeat + 1):
        begin = time.process_time()
        history = [decode_event(raw) for raw in stored]
        decoded = time.process_time()
        live = Execution(workflows.bench_sequence.definition, _Inline())
        live.replay(history)
        end = time.process_time()
        check([live.outcome, live.history_length], [Completed(str(sum(range(steps)))), len(events)])
        live.close()
        whole.append(len(events) / (end - begin))
        alone.append(len(events) / (end - decoded))
    facts = {"without_decoding": alone[1:], "bytes": sum(map(len, stored))}
    return [Row("W9", f"replay of {len(events)} events", "events/s", whole[1:], rate=True, facts=facts)]
