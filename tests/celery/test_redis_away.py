"""Redis dies while an activity runs: its outcome is kept, and never becomes a false failure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded

from celeriac.celery_app import embedded
from celeriac.celery_app.settings import Settings
from celeriac.orchestrations.history import TaskCompleted


@pytest.fixture(scope="module")
def own_redis() -> Iterator[embedded.EmbeddedRedis]:
    """A Redis that these tests may kill; the answer to a write means that it is on the disk."""
    directory = Path(tempfile.mkdtemp(prefix="clr"))  # short: socket paths are limited
    with embedded.start(directory, appendfsync="always") as running:
        yield running
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def bench_settings(own_redis: embedded.EmbeddedRedis) -> Settings:
    return Settings(redis_url=own_redis.url, queue="qaway", apps=("acts",), lease=2, beat=0.5)


POOLS = ("prefork", "threads", "solo")


@dataclass
class Running:
    """An activity of one second that runs in a worker of each pool when Redis dies."""

    bench: Any
    workers: Any
    folder: Path
    name: str

    def __post_init__(self) -> None:
        self.processes = [self.workers.start(pool, "-Q", self.queue(pool), wait=False) for pool in POOLS]
        for process in self.processes:
            self.workers.wait_ready(process)
        for pool in POOLS:
            call = json.dumps([[1, str(self.log(pool))], {}])
            self.bench.call(f"{self.name}-{pool}", "sleep", call, queue=self.queue(pool))
        self.bench.wait_for(lambda: all(self.log(pool).exists() for pool in POOLS))

    def queue(self, pool: str) -> str:
        return f"q{self.name}-{pool}"

    def log(self, pool: str) -> Path:
        return self.folder / f"{self.name}-{pool}"

    def wait_until_they_complain(self) -> None:
        self.bench.wait_for(
            lambda: all("cannot be written yet" in self.workers.log(process) for process in self.processes)
        )

    def end(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(60)


def test_an_outcome_is_written_when_redis_is_back(
    bench: Any, workers: Any, own_redis: embedded.EmbeddedRedis, tmp_path: Path
) -> None:
    running = Running(bench, workers, tmp_path, "away")
    own_redis.kill()
    running.wait_until_they_complain()
    own_redis.restart()
    for pool in POOLS:
        event = bench.outcome(f"away-{pool}")
        assert isinstance(event, TaskCompleted), pool
        assert event.result == '"slept"'
    # Nor is it run again afterwards: the message was acknowledged, or dropped when it came back.
    for pool in POOLS:
        bench.call(f"next-{pool}", "add", "[[1,2],{}]", queue=running.queue(pool))
    assert [bench.outcome(f"next-{pool}").result for pool in POOLS] == ["3", "3", "3"]
    assert [running.log(pool).read_text() for pool in POOLS] == ["x", "x", "x"]
    running.end()


def test_workers_that_are_stopped_meanwhile_give_the_attempt_back(
    bench: Any, workers: Any, own_redis: embedded.EmbeddedRedis, tmp_path: Path
) -> None:
    running = Running(bench, workers, tmp_path, "stopped")
    own_redis.kill()
    running.wait_until_they_complain()
    running.end()
    own_redis.restart()
    others = ",".join(running.queue(pool) for pool in POOLS)
    workers.start("threads", "-Q", others)
    assert [bench.outcome(f"stopped-{pool}").result for pool in POOLS] == ['"slept"'] * 3
    assert [running.log(pool).read_text() for pool in POOLS] == ["xx", "xx", "xx"]


def test_a_soft_limit_that_fires_while_the_outcome_is_written_changes_nothing(
    bench: Any, own_redis: embedded.EmbeddedRedis
) -> None:
    def fire(*_: Any) -> None:
        raise SoftTimeLimitExceeded(1.0)

    execution = bench.start("written")
    step = bench.step("written", execution, "add", "[[1,2],{}]")
    bench.commit("written", execution, messages=[step])
    headers = json.loads(step.message)["headers"]
    request = Context({**headers, "args": ["[[1,2],{}]"], "chord": None})
    before = signal.signal(signal.SIGUSR1, fire)  # as billiard's soft limit does
    own_redis.kill()
    done = threading.Event()

    def disturb() -> None:
        done.wait(0.7)
        os.kill(os.getpid(), signal.SIGUSR1)
        done.wait(0.7)
        own_redis.restart()
        done.wait(30)  # the server ends with the thread that started it

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        bench.app.backend.mark_as_done(headers["id"], "3", request)
        (event,) = bench.inbox("written")
        assert isinstance(event, TaskCompleted)
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
