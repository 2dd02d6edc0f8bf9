"""How fast a worker drains a queue of no-ops: our transport beside kombu's own, in turn, on one Redis.

    python -m benchmarks.drain [--tasks 2000] [--pool solo] [--concurrency 2] [--rounds 3]

Each round publishes the tasks, starts a worker, and measures from its first to its last acknowledgement.
Prints the medians in tasks per second and their ratio; every task must have run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import redis

from celeriac.celery_app import embedded
from celeriac.celery_app.app import create_app
from celeriac.celery_app.settings import Settings

TASKS = """

from celeriac.celery_app import app

@app.task(name="noop", ignore_result=True)
def noop():
    pass
"""


def drain(settings: Settings, options: argparse.Namespace, folder: Path) -> float:
    """Tasks per second of one round."""
    client = redis.Redis.from_url(settings.redis_url)
    client.flushdb()
    app = create_app(settings, load=False)
    with app.producer_pool.acquire() as producer:
        for _ in range(options.tasks):
            app.send_task("noop", queue=settings.queue, ignore_result=True, producer=producer)
    app.close()
    log = (folder / "worker.log").open("wb")
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "celeriac.celery_app", "worker", "-l", "WARNING",
         "-P", options.pool, "-c", str(options.concurrency)],
        cwd=folder, env={**os.environ, **settings.environment()}, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        return _measure(client, settings, options.tasks)
    finally:
        worker.terminate()
        worker.wait()
        log.close()
        client.close()


def _measure(client: redis.Redis, settings: Settings, tasks: int) -> float:
    """From the twentieth part done to the last, so that no start-up is measured."""
    begin, first, deadline = 0.0, 0, time.monotonic() + 120
    while time.monotonic() < deadline:
        left = _left(client, settings)
        if not begin and left < tasks * 0.95:
            begin, first = time.monotonic(), left
        if begin and left == 0:
            return first / (time.monotonic() - begin)
        time.sleep(0.005)
    raise SystemExit(f"{_left(client, settings)} of {tasks} tasks were not done within 120 s")


def _left(client: redis.Redis, settings: Settings) -> int:
    """Messages not acknowledged: queued, in a flight record, or in kombu's own record."""
    with client.pipeline(transaction=True) as pipe:
        pipe.llen(settings.queue)
        pipe.hlen("unacked")
        pipe.zrange(f"{settings.hub}:beats", 0, 0)
        queued, unacked, beats = pipe.execute()
    flying = client.hlen(f"{settings.hub}:flight:{beats[0].decode()}") if beats else 0
    return queued + unacked + flying


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--pool", choices=("solo", "threads", "prefork"), default="solo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "drained.py").write_text(TASKS)
        server = embedded.start(folder / "redis")
        try:
            ours = Settings(redis_url=server.url, apps=("drained",))
            stock = replace(ours, transport="stock")
            rates: dict[str, list[float]] = {"stock": [], "celeriac": []}
            for _ in range(options.rounds):
                for settings in (stock, ours):
                    rates[settings.transport].append(drain(settings, options, folder))
        finally:
            server.stop()
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        print(f"{name:9} {medians[name]:6.0f}/s   ({', '.join(f'{rate:.0f}' for rate in found)})")
    print(
        f"ratio     x{medians['celeriac'] / medians['stock']:.2f}   ({options.pool}, {options.tasks} no-ops)"
    )


if __name__ == "__main__":
    main()
