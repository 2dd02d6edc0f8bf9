"""Activities that take their process with them, or never end, on every pool: a typed failure, never a loop.

Real workers, which a supervisor (the test) starts again, and a real orchestrator.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store

FLOWS = '''
import ctypes, os, signal, time
from datetime import timedelta
from pathlib import Path
from celeriac.activities import activity
from celeriac.orchestrations import RetryPolicy, orchestrator

def note(name):
    with open(f"{name}.runs", "a") as file:
        file.write("x")
    return os.path.getsize(f"{name}.runs")

def end(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(9)

@activity
def deadly(name: str, how: str) -> int:
    note(name)
    end(how)

@activity(retry=RetryPolicy(timedelta(milliseconds=50), 2))
def deadly_with_a_policy(name: str, how: str) -> int:
    note(name)
    end(how)

@activity
def deadly_once(name: str, how: str) -> int:
    if note(name) == 1:
        end(how)
    return 42

@activity
def harmless(name: str, how: str) -> int:
    return 1

@activity(timeout=0.7)
def endless(name: str, how: str) -> int:
    note(name)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        try:
            if how == "in C":
                ctypes.PyDLL(None).usleep(4_000_000)  # holds the GIL, sees no signal
            time.sleep(0.05)
        except Exception:
            if how == "stops":
                raise
    return 0

@activity
def stubborn(name: str, how: str) -> int:
    """Holds the GIL for several leases: no thread and no loop of its process moves."""
    note(name)
    ctypes.PyDLL(None).usleep(4_500_000)
    return 7

@orchestrator
async def flow(ctx, input):
    activity, name, how = input
    return await ctx.call_activity(globals()[activity], name, how)
'''
POOLS = ("prefork", "threads", "solo")


class Ward:
    """A hub, an orchestrator, and a worker of one pool that is started again when it dies."""

    def __init__(self, url: str, folder: Path, pool: str, workers: Any) -> None:
        name = f"d{secrets.token_hex(3)}"
        self.settings = Settings(
            redis_url=url, hub=name, queue=f"q{name}", apps=("deadly",), lease=1.5, beat=0.3, max_lost=1
        )
        self.folder, self.pool, self.workers, self.deaths = folder, pool, workers, 0
        self.store = Store.connect(self.settings)
        self.client = Client(settings=self.settings, store=self.store)
        self.worker = self._start_worker()
        with (folder / "orchestrator.log").open("wb") as log:
            self.orchestrator = subprocess.Popen(
                [sys.executable, "-m", "celeriac.cli.main", "orchestrator"],
                env=os.environ | self.settings.environment(), cwd=folder,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

        served = self.store.keys.path("served")
        until = time.monotonic() + 60
        while self.store.client.hlen(served) < 7:  # six activities and the orchestrator
            assert time.monotonic() < until, self.workers.log(self.worker)
            time.sleep(0.05)

    def _start_worker(self) -> Any:
        return self.workers.start(self.pool, "-Q", self.settings.queue, settings=self.settings, wait=False)

    def begin(self, activity: str, how: str = "") -> str:
        return self.client.start("flow", [activity, f"{activity}-{how}".replace(" ", ""), how])

    def end(self, instance: str, seconds: float = 60) -> Any:
        """The final state; meanwhile the worker is kept alive."""
        until = time.monotonic() + seconds
        while not (state := self.client.get(instance)).status.is_final:
            assert time.monotonic() < until, self.workers.log(self.worker)[-3000:]
            self.supervise()
            time.sleep(0.05)
        return state

    def supervise(self) -> None:
        if self.worker.poll() is not None:
            self.deaths += 1
            self.worker = self._start_worker()

    def runs(self, name: str) -> int:
        path = self.folder / f"{name}.runs"
        return path.stat().st_size if path.exists() else 0

    def close(self) -> None:
        for process in (self.orchestrator, self.worker):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.store.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project."""
    path = tmp_path_factory.mktemp("deaths")
    (path / "deadly.py").write_text(FLOWS)
    return path


@pytest.fixture(scope="module", params=POOLS)
def ward(redis_server: Any, folder: Path, workers: Any, request: pytest.FixtureRequest) -> Iterator[Ward]:
    """One for each pool."""
    for old in folder.glob("*.runs"):
        old.unlink()
    made = Ward(redis_server.url, folder, request.param, workers)
    try:
        yield made
    finally:
        made.close()


def test_a_death_is_repeated_and_does_not_count(ward: Ward) -> None:
    """As the kernel kills who uses too much memory."""
    state = ward.end(ward.begin("deadly_once", "kill"))
    assert (state.status, state.output) == ("Completed", 42)
    assert ward.runs("deadly_once-kill") == 2


def test_deaths_in_a_row_are_a_typed_failure(ward: Ward) -> None:
    """One death more than `max_lost`, and the worker lives on."""
    state = ward.end(ward.begin("deadly", "exit"))
    assert state.status == "Failed"
    assert "ActivityWorkerLostError" in repr(state.failure)
    assert "os._exit" in repr(state.failure)
    assert ward.runs("deadly-exit") == 2
    assert ward.end(ward.begin("harmless")).output == 1


def test_a_policy_judges_what_goes_beyond_the_limit(ward: Ward) -> None:
    """Two attempts: the first with the free death, the second with none."""
    instance = ward.begin("deadly_with_a_policy", "exit")
    assert ward.end(instance).status == "Failed"
    assert ward.runs("deadly_with_a_policy-exit") == 3


@pytest.mark.parametrize("how", ["stops", "goes on", "in C"])
def test_a_timeout_is_a_typed_failure(ward: Ward, how: str) -> None:
    """Stopped by Celery's limits in prefork; elsewhere the sweep ends the attempt, whatever the code does."""
    state = ward.end(ward.begin("endless", how))
    assert state.status == "Failed"
    assert "ActivityTimeoutError" in repr(state.failure)
    assert ward.runs(f"endless-{how}".replace(" ", "")) == 1


def test_a_c_call_of_several_leases_runs_once(ward: Ward) -> None:
    """The beat comes from a process of its own, so the lease of a worker that cannot move does not lapse."""
    began = time.monotonic()
    state = ward.end(ward.begin("stubborn"))
    assert (state.status, state.output) == ("Completed", 7)
    assert time.monotonic() - began > 2 * ward.settings.lease
    assert ward.runs("stubborn-") == 1
    assert "lapsed" not in ward.workers.log(ward.worker)
