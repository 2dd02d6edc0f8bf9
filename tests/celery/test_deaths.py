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
import ctypes, os, resource, signal, time
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
    if how == "crash":
        ctypes.string_at(0)
    os._exit(9)

kept = []

def exhaust(room, smallest, held):
    """Take all memory that a limit on the address space leaves, down to pieces of this size."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
    size = 1 << 22
    while True:
        try:
            held.append(bytearray(size))
        except MemoryError:
            if size <= smallest:
                raise
            size //= 2

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

@activity(retry=RetryPolicy(timedelta(milliseconds=50), 2))
def hungry(name: str, how: str) -> int:
    """Uses up its memory, and has it still when the failure is reported."""
    note(name)
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        exhaust(1 << 26, 1 << 20 if how == "some" else 64, kept if how == "kept" else [])
    finally:
        if how == "some":
            resource.setrlimit(resource.RLIMIT_AS, before)

@activity
def victim(name: str, how: str) -> int:
    """Waits for somebody to kill its process."""
    with open(f"{name}.pid.new", "w") as file:
        file.write(str(os.getpid()))
    note(name)
    os.rename(f"{name}.pid.new", f"{name}.pid")
    time.sleep(60)

@activity(timeout=0.7, retry=RetryPolicy(timedelta(milliseconds=50), 2))
def endless_with_a_policy(name: str, how: str) -> int:
    note(name)
    time.sleep(4)
    raise ValueError("too late")

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
        while self.store.client.hlen(served) < 10:  # nine activities and the orchestrator
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


@pytest.mark.parametrize("how", ["exit", "crash"])
def test_deaths_in_a_row_are_a_typed_failure(ward: Ward, how: str) -> None:
    """One death more than `max_lost`, and the worker lives on."""
    state = ward.end(ward.begin("deadly", how))
    assert state.status == "Failed"
    assert "ActivityWorkerLostError" in repr(state.failure)
    assert "os._exit" in repr(state.failure)
    assert ward.runs(f"deadly-{how}") == 2
    assert ward.end(ward.begin("harmless")).output == 1


def test_the_kernel_kills_whoever_runs_it(ward: Ward) -> None:
    """SIGKILL from outside each time it runs, as the OOM killer does: to the child, or the whole worker."""
    instance, file, killed = ward.begin("victim"), ward.folder / "victim-.pid", 0
    until = time.monotonic() + 60
    while not (state := ward.client.get(instance)).status.is_final:
        assert time.monotonic() < until, ward.workers.log(ward.worker)[-3000:]
        if file.exists():
            pid = int(file.read_text())
            file.unlink()
            os.kill(pid, signal.SIGKILL)
            killed += 1
            assert (pid == ward.worker.pid) == (ward.pool != "prefork")
        ward.supervise()
        time.sleep(0.05)
    assert (state.status, killed, ward.runs("victim-")) == ("Failed", 2, 2)
    assert "ActivityWorkerLostError" in repr(state.failure)
    assert ward.end(ward.begin("harmless")).output == 1


def test_memory_that_is_used_up_is_a_failure_like_any_other(ward: Ward) -> None:
    """A MemoryError by a limit on the address space: the process lives on, and the policy decides."""
    deaths = ward.deaths
    state = ward.end(ward.begin("hungry", "some"))
    assert state.status == "Failed"
    assert "MemoryError" in repr(state.failure)
    assert ward.runs("hungry-some") == 2
    assert ward.deaths == deaths
    assert ward.end(ward.begin("harmless")).output == 1


def test_memory_is_let_go_before_the_failure_is_reported(ward: Ward) -> None:
    """All of it is used, and the traceback holds it: its variables are dropped, or nothing could be told."""
    deaths = ward.deaths
    state = ward.end(ward.begin("hungry", "all"))
    assert state.status == "Failed"
    assert "MemoryError" in repr(state.failure)
    assert (ward.runs("hungry-all"), ward.deaths) == (2, deaths)


def test_memory_of_which_nothing_is_left(ward: Ward) -> None:
    """A global variable holds it: the process ends, or the step would count as running for ever."""
    state = ward.end(ward.begin("hungry", "kept"))
    assert state.status == "Failed"
    assert "ActivityWorkerLostError" in repr(state.failure)
    assert ward.runs("hungry-kept") == 3, "one death is free, then two attempts by its policy"
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


def test_a_policy_judges_a_timeout(ward: Ward) -> None:
    state = ward.end(ward.begin("endless_with_a_policy"))
    assert state.status == "Failed"
    assert "ActivityTimeoutError" in repr(state.failure)
    assert ward.runs("endless_with_a_policy-") == 2


def test_a_c_call_of_several_leases_runs_once(ward: Ward) -> None:
    """The beat comes from a process of its own, so the lease of a worker that cannot move does not lapse."""
    began = time.monotonic()
    state = ward.end(ward.begin("stubborn"))
    assert (state.status, state.output) == ("Completed", 7)
    assert time.monotonic() - began > 2 * ward.settings.lease
    assert ward.runs("stubborn-") == 1
    assert "lapsed" not in ward.workers.log(ward.worker)
