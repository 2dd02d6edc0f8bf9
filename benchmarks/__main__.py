"""python -m benchmarks [--only W2,W3] [--repeat 3] [--scale 0.05]: prints the table of ratios."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from celeriac.celery_app import Client

from . import raw_app
from .machines import SHAPES, fleet, redis_server
from .workloads import Workload, workloads


def measure(workload: Workload, client: Client, repeat: int) -> dict[str, float]:
    """Raw and ours in turn, once unmeasured and `repeat` times measured; medians and their ratio."""
    workload.raw()
    workload.ours(client)
    pairs = [(workload.raw(), workload.ours(client)) for _ in range(repeat)]
    raw, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"raw_s": raw, "ours_s": ours, "ratio": statistics.median(r / o for r, o in pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="workloads, comma-separated; all if not given")
    parser.add_argument("--shape", default=",".join(SHAPES), help="pool shapes, comma-separated")
    parser.add_argument("--repeat", type=int, default=3, help="measured repetitions of each side")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the workloads")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    wanted = {w for w in options.only.split(",") if w}
    chosen = [w for w in workloads(options.scale) if not wanted or w.key in wanted]
    if not chosen:
        parser.error(f"no workload is called {options.only}; there are {[w.key for w in workloads()]}")
    table = Table("workload", "pool", "raw Celery, s", "Celeriac, s", "steps/s", "speed ratio")
    figures: list[dict[str, object]] = []
    with redis_server() as (raw_url, url), Client(redis_url=url) as client:
        raw_app.use(raw_url)
        for shape in options.shape.split(","):
            with fleet(shape, raw_url, url):
                for workload in chosen:
                    got = measure(workload, client, options.repeat)
                    figures.append({"workload": workload.key, "shape": shape, "steps": workload.steps, **got})
                    table.add_row(
                        f"{workload.key} {workload.title}",
                        shape,
                        f"{got['raw_s']:.2f}",
                        f"{got['ours_s']:.2f}",
                        f"{workload.steps / got['ours_s']:.0f}",
                        f"x{got['ratio']:.2f}",
                    )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


main()
