"""python -m benchmarks [--only W2,W3] [--repeat 3] [--scale 0.05] [--smoke]: the table of README.md.

A workload that fails gives no figure, the others go on, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .alone import flat_cost, latency, replaying, wide
from .dormant import dormant
from .machines import SHAPES, Ours, Raw, our_side, raw_side, ready, redis_server
from .measuring import cpu_seconds
from .report import machine, show, write
from .rows import Row
from .scaling import scaling
from .stage import Stage
from .workloads import Paired, paired

ALONE: dict[str, Callable[[Stage], list[Row]]] = {
    "W5": flat_cost,
    "W6": wide,
    "W7": latency,
    "W8": dormant,
    "W9": replaying,
    "W10": scaling,
}
COUNTS_AGAINST = "prefork"  # Celery's default kind: our better shape against it is the figure that counts

Sides = list[tuple[Raw, Ours]]


class Run:
    """The rows and errors so far."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.errors: dict[str, str] = {}

    def add(self, key: str, make: Callable[[], list[Row]]) -> None:
        """Rows of one workload, or why there are none."""
        begin = time.monotonic()
        try:
            self.rows += make()
        except Exception as error:  # noqa: BLE001 - an hour of figures must not be lost with one workload
            traceback.print_exc()
            self.errors[key] = f"{type(error).__name__}: {error}"
        took = time.monotonic() - begin
        print(f"{key} took {took:.0f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)


def pairs(workload: Paired, sides: Sides, repeat: int, warm: bool) -> list[Row]:
    """Every side in turn, once unmeasured, then `repeat` times, the order turned round each time."""
    turns: list[tuple[str, str, Callable[[], float]]] = []
    for raw, ours in sides:
        turns.append(("raw", raw.shape, lambda raw=raw: workload.raw(raw)))
        turns.append(("ours", ours.shape, lambda ours=ours: workload.ours(ours)))
    found: dict[tuple[str, str], list[float]] = {turn[:2]: [] for turn in turns}
    for number in range(-1 if warm else 0, repeat):
        for side, shape, turn in turns if number % 2 == 0 else turns[::-1]:
            figure = turn()
            if number >= 0:
                found[side, shape].append(figure)
    same = [(ours.shape, ours.shape) for _, ours in sides]
    across = [(ours.shape, COUNTS_AGAINST) for _, ours in sides if ours.shape != COUNTS_AGAINST]
    if "/" in workload.key or ("raw", COUNTS_AGAINST) not in found:
        across = []  # a drain is compared in the same shape only
    rows = [
        Row(
            workload.key, workload.title, "/s" if workload.rate else "s", found["ours", ours], ours,
            found["raw", raw], raw, workload.rate, against=workload.against,
            facts={"activities": workload.steps},
        )
        for ours, raw in same + across
    ]  # fmt: skip
    if "/" in workload.key:
        return rows
    candidates = [row for row in rows if row.raw_shape == COUNTS_AGAINST]
    best = max(candidates, key=lambda row: row.ratio or 0, default=None)
    return [dataclasses.replace(row, counts=row is best) for row in rows]


def idle_cpu(sides: Sides, seconds: float) -> dict[str, float]:
    """Cores that each side's idle processes use: they stay up in the other's turn."""
    pids = {f"raw {raw.shape}": [w.pid for w in raw.workers] for raw, _ in sides}
    pids |= {f"ours {ours.shape}": [p.pid for p in (*ours.workers, *ours.orchestrators)] for _, ours in sides}
    before = {name: sum(map(cpu_seconds, each)) for name, each in pids.items()}
    time.sleep(seconds)
    return {name: (sum(map(cpu_seconds, each)) - before[name]) / seconds for name, each in pids.items()}


def measure(options: argparse.Namespace, wanted: set[str], run: Run) -> dict[str, Any]:
    """Fill in the run; the facts about the machine."""
    stage = Stage(options.scale, options.repeat, options.shape.split(","), options.smoke, options.million)
    chosen = [p for p in paired(options.scale, options.wait) if not wanted or p.key.split("/")[0] in wanted]
    alone = [key for key in ALONE if not wanted or key in wanted]
    with redis_server() as server:
        facts = machine(server.url)
        with ExitStack() as stack:
            sides: Sides = []
            if chosen or options.smoke:
                for number, shape in enumerate(stage.shapes):
                    raw = raw_side(stack, server, shape, 2 * number)
                    sides.append((raw, our_side(stack, server, shape, 2 * number + 1)))
                ready(*(side for pair in sides for side in pair))
                facts["idle_cores"] = idle_cpu(sides, 0.5 if options.smoke else 5.0)
            for workload in chosen:
                run.add(workload.key, lambda w=workload: pairs(w, sides, options.repeat, not options.smoke))
            if options.smoke:
                shared = dataclasses.replace(stage, shapes=stage.shapes[-1:], shared=sides[-1][1])
                for key in alone:
                    run.add(key, lambda key=key: ALONE[key](shared))
        if not options.smoke:
            for key in alone:
                run.add(key, lambda key=key: ALONE[key](stage))
    return {**facts, "load_after": os.getloadavg()[0]}


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="workloads, comma-separated; all if not given")
    parser.add_argument("--shape", default=",".join(SHAPES), help="pool shapes, comma-separated")
    parser.add_argument("--repeat", type=int, default=3, help="measured repetitions of each side")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the workloads")
    parser.add_argument("--wait", type=float, default=5.0, help="seconds of the timer of W4")
    parser.add_argument("--million", action="store_true", help="W6: a map of 1,000,000 instead of 100,000")
    parser.add_argument("--smoke", action="store_true", help="tiny and once: are the results right?")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    options = parser.parse_args()
    if options.smoke:
        options.scale, options.repeat, options.wait = 0.005, 1, 1.0
    wanted = {each for each in options.only.split(",") if each}
    known = {p.key.split("/")[0] for p in paired(1.0, 5.0)} | ALONE.keys()
    if unknown := wanted - known:
        parser.error(
            f"no workload is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    if unknown := set(options.shape.split(",")) - SHAPES.keys():
        parser.error(f"no pool shape is called {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    run = Run()
    facts = measure(options, wanted, run)
    show(run.rows, run.errors, facts)
    told = {name: getattr(options, name) for name in ("scale", "repeat", "wait", "million", "smoke")}
    write(options.json, run.rows, run.errors, machine=facts, options=told)
    print(f"written to {options.json}")
    return 1 if run.errors else 0


if __name__ == "__main__":
    sys.exit(main())
