"""Starts and stops the processes that a benchmark measures: one Redis, workers, orchestrators.

Both sides get the same Redis (AOF everysec) in databases of their own, the same pool shape and the same
options of the worker. Every process is waited for until it takes work, and ends with the benchmark.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from celery import Celery

from celeriac.celery_app import Client
from celeriac.celery_app.embedded import EmbeddedRedis, start, tethered

from . import raw_app
from .measuring import until

ROOT = Path(__file__).parents[1]
# Other modules with the same names in them: so that a test can show that a wrong result is noticed.
OUR_APP = os.environ.get("BENCH_APP", "benchmarks.workflows")
RAW_APP = os.environ.get("BENCH_RAW_APP", "benchmarks.raw_app")

SHAPES: dict[str, list[list[str]]] = {  # one list of Celery worker options per worker process
    "prefork": [["--pool", "prefork", "--concurrency", "2"]],
    "solo": [["--pool", "solo"], ["--pool", "solo"]],
}
QUIET = ["--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
READY = 90  # seconds until a process must take work


@dataclass(frozen=True)
class Running:
    """A process of the benchmark and the file that it writes to."""

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def said(self) -> str:
        """The end of what it wrote."""
        self.output.flush()
        return Path(self.output.name).read_text(errors="replace")[-4000:]


@dataclass(frozen=True)
class Raw:
    """Raw Celery: its workers in one pool shape, and the app to talk to them."""

    shape: str
    url: str
    app: Celery
    workers: Sequence[Running]


@dataclass(frozen=True)
class Ours:
    """Celeriac: its workers in one pool shape, its orchestrators, and a client."""

    shape: str
    url: str
    client: Client
    workers: Sequence[Running]
    orchestrators: Sequence[Running]
    redis: EmbeddedRedis


@contextmanager
def redis_server() -> Iterator[EmbeddedRedis]:
    """A private Redis with AOF everysec."""
    with tempfile.TemporaryDirectory(prefix="celeriac-bench-") as directory:
        server = start(Path(directory), appendfsync="everysec")
        try:
            yield server
        finally:
            server.stop()


def database(server: EmbeddedRedis, number: int) -> str:
    """The URL of one database of the server."""
    return f"{server.url.partition('?')[0]}?db={number}"


@contextmanager
def running(name: str, module: Sequence[str], environment: dict[str, str]) -> Iterator[Running]:
    """Run `python -m module ...` for the length of the block; shows what it wrote if it ended early.

    With BENCH_SAMPLES (a folder) it runs under the sampling profiler, see profile.py.
    """
    command = [sys.executable, "-m"]
    if folder := os.environ.get("BENCH_SAMPLES"):
        command += ["benchmarks.sampler", folder, name]
    with tempfile.NamedTemporaryFile(prefix="celeriac-bench-") as output:
        process = subprocess.Popen(
            tethered([*command, *module]), cwd=ROOT, env={**os.environ, **environment},
            stdout=output, stderr=output,
        )  # fmt: skip
        made = Running(name, process, output)
        try:
            yield made
        finally:
            early = process.poll()
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:  # a worker that will not part from what it has
                process.kill()
                process.wait()
            if early is not None:
                sys.stderr.write(f"{name} ended by itself ({early}):\n{made.said()}")


def _workers(
    stack: ExitStack, name: str, app: str, options: list[list[str]], environment: dict[str, str]
) -> list[Running]:
    return [
        stack.enter_context(
            running(
                f"{name}-{number}",
                ["celery", "-A", app, "worker", *QUIET, *each, "-n", f"{name}-{number}@%h"],
                environment,
            )
        )
        for number, each in enumerate(options)
    ]


def raw_side(stack: ExitStack, server: EmbeddedRedis, shape: str, number: int) -> Raw:
    """Start raw Celery's workers on that database; `ready` waits for them."""
    url = database(server, number)
    workers = _workers(stack, f"raw-{shape}", RAW_APP, SHAPES[shape], {"BENCH_REDIS_URL": url})
    app = raw_app.create(url)
    stack.callback(app.close)
    return Raw(shape, url, app, workers)


def our_side(
    stack: ExitStack,
    server: EmbeddedRedis,
    shape: str,
    number: int,
    *,
    orchestrators: int = 1,
    options: list[list[str]] | None = None,
) -> Ours:
    """Start Celeriac's processes on that database. `options` are of each worker; by default the shape's."""
    url = database(server, number)
    environment = {"CELERIAC_REDIS_URL": url, "CELERIAC_APP": OUR_APP}
    options = SHAPES[shape] if options is None else options
    workers = _workers(stack, f"ours-{shape}", "celeriac.celery_app", options, environment)
    command = ["celeriac.cli.main", "orchestrator", "--log-level", "WARNING"]
    leaders = [
        stack.enter_context(running(f"orchestrator-{shape}-{n}", command, environment))
        for n in range(orchestrators)
    ]
    client = stack.enter_context(Client(redis_url=url))
    return Ours(shape, url, client, workers, leaders, server)


def ready(*sides: Raw | Ours) -> None:
    """Wait until every process of these takes work."""
    for side in sides:
        until(lambda side=side: _is_ready(side), READY, f"the processes of {side.shape} to be ready")


def _is_ready(side: Raw | Ours) -> bool:
    mine = [*side.workers, *(side.orchestrators if isinstance(side, Ours) else ())]
    for each in mine:
        if each.process.poll() is not None:
            raise RuntimeError(f"{each.name} did not start:\n{each.said()}")
    if isinstance(side, Raw):
        return len(side.app.control.ping(timeout=2, limit=len(side.workers))) == len(side.workers)
    kinds = Counter(process.kind for process in side.client.workers())
    return kinds["worker"] == len(side.workers) and kinds["orchestrator"] == len(side.orchestrators)
