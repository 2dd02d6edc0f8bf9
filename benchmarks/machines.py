"""Starts and stops the processes that a benchmark measures: one Redis, workers, an orchestrator."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from celeriac.celery_app import embedded

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

SHAPES: dict[str, list[list[str]]] = {  # one list of Celery worker options per worker process
    "prefork": [["--pool", "prefork", "--concurrency", "2"]],
    "solo": [["--pool", "solo"], ["--pool", "solo"]],
}


@contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for the length of the block; its output goes to a file shown if it dies early."""
    with tempfile.TemporaryFile() as output:
        running = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output
        )
        try:
            yield running
        finally:
            early = running.poll()
            running.terminate()
            running.wait(timeout=60)
            if early is not None:
                output.seek(0)
                sys.stderr.write(output.read().decode(errors="replace")[-4000:])


@contextmanager
def redis_server() -> Iterator[tuple[str, str]]:
    """A private Redis with AOF everysec; yields the URLs of two databases: raw Celery's and Celeriac's."""
    with tempfile.TemporaryDirectory(prefix="celeriac-bench-") as directory:
        redis = embedded.start(Path(directory), appendfsync="everysec")
        try:
            base = redis.url.partition("?")[0]
            yield f"{base}?db=1", f"{base}?db=0"
        finally:
            redis.stop()


@contextmanager
def fleet(shape: str, raw_url: str, url: str) -> Iterator[None]:
    """Both sides' workers in one pool shape, and an orchestrator."""
    raw = {"BENCH_REDIS_URL": raw_url}
    ours = {"CELERIAC_REDIS_URL": url, "CELERIAC_APP": "benchmarks.workflows"}
    celery = str(BIN / "celery")
    with ExitStack() as stack:
        for number, options in enumerate(SHAPES[shape]):
            rest = ["worker", "--loglevel", "WARNING", *options]
            for app, name, environment in (
                ("benchmarks.raw_app", "raw", raw),
                ("celeriac.celery_app", "ours", ours),
            ):
                command = [celery, "-A", app, *rest, "-n", f"{name}{number}@%h"]
                stack.enter_context(process(command, environment))
        stack.enter_context(process([str(BIN / "celeriac"), "orchestrator"], ours))
        yield
