"""The table and the JSON file, with the facts about the machine that every figure depends on."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from .machines import ROOT
from .rows import Row

MARKS = {"goal": "[green]goal[/]", "floor": "[yellow]floor[/]", "below": "[red]below[/]", "": ""}


def machine(redis_url: str) -> dict[str, Any]:
    """Cores, load and versions, as they are now."""
    with redis.Redis.from_url(redis_url) as client:
        info: Any = client.info("server")
        appendfsync: Any = client.config_get("appendfsync")
    cpuinfo = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else ())
        if line.startswith("model name")
    ]
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "processor": models[0] if models else platform.processor(),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "redis": info["redis_version"],
        "appendfsync": appendfsync["appendfsync"],
        "celery": version("celery"),
        "kombu": version("kombu"),
        "redis_py": version("redis"),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(_git("status", "--porcelain").splitlines()),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def show(rows: Sequence[Row], errors: dict[str, str], facts: dict[str, Any]) -> None:
    """Print the table of medians."""
    table = Table("workload", "ours", "against", "unit", "Celeriac", "other", "ratio", "target")
    for row in rows:
        ratio = row.ratio
        table.add_row(
            f"{row.key}: {row.title}",
            row.shape,
            f"{row.against}, {row.raw_shape}" if row.raw else "",
            row.unit,
            _number(statistics.median(row.ours)),
            _number(statistics.median(row.raw)) if row.raw else "",
            f"x{ratio:.2f}" if ratio is not None else "",
            MARKS[row.verdict],
        )
    console = Console(width=None if Console().is_terminal else 150)
    console.print(table)
    console.print(
        f"{facts['cores']} cores, load {facts['load_before']:.1f} before, {facts['load_after']:.1f} after, "
        f"Python {facts['python']}, Redis {facts['redis']} (AOF {facts['appendfsync']}), "
        f"Celery {facts['celery']}, commit {facts['commit'][:10]}"
    )
    for key, error in errors.items():
        console.print(f"[red]{key} gave no figures:[/] {error}")


def write(path: Path, rows: Sequence[Row], errors: dict[str, str], **facts: Any) -> None:
    """Write everything as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {**facts, "rows": [row.to_json() for row in rows], "errors": errors}
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
