"""The beat helper of a worker: it keeps leases alive and dies with its worker."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from celeriac.celery_app.app import create_app
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store, flights
from celeriac.celery_app.store.flights import Taken
from celeriac.celery_app.transport.inflight import InFlight, Pending
from celeriac.celery_app.transport.prefetch import Pace

TASKS = '''
import ctypes, time
from celeriac.celery_app import app

@app.task(name="plain.block")
def block(path, seconds):
    """Holds the GIL."""
    open(path, "w").close()
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    open(path + ".done", "a").write("x")

@app.task(name="plain.nap")
def nap(path, seconds):
    """Leaves a mark for each run."""
    with open(path, "a") as file:
        file.write("x")
    time.sleep(seconds)
    open(path + ".done", "w").close()
'''


def until(condition: Callable[[], Any], seconds: float = 20, what: str = "") -> Any:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project."""
    path = tmp_path_factory.mktemp("project")
    (path / "acts.py").write_text(TASKS)
    return path


@pytest.fixture
def settings(redis_server: Any) -> Settings:
    """A hub of its own with short leases."""
    name = f"b{os.urandom(3).hex()}"
    return Settings(
        redis_url=redis_server.url, hub=name, queue=f"q{name}", apps=("acts",), lease=1.5, beat=0.3
    )


@pytest.fixture
def redis_store(settings: Settings) -> Iterator[Store]:
    """A store in that hub."""
    with Store.connect(settings) as made:
        yield made


class Helper:
    """A helper whose worker is a small process that this test can kill."""

    def __init__(self, settings: Settings, names: list[str]) -> None:
        first = {"settings": asdict(settings), "info": {"pid": 1}}
        worker = (
            "import json, os, subprocess, sys\n"
            "first = json.loads(sys.argv[1]) | {'worker': os.getpid()}\n"
            "command = [sys.executable, '-m', 'celeriac.celery_app.transport.beat']\n"
            "helper = subprocess.Popen(command, stdin=subprocess.PIPE)\n"
            "for line in (first, {'incarnations': json.loads(sys.argv[2])}):\n"
            "    helper.stdin.write(json.dumps(line).encode() + b'\\n')\n"
            "helper.stdin.flush()\n"
            "print(helper.pid, flush=True)\n"
            "sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", worker, json.dumps(first), json.dumps(names)]
        self.worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.worker.stdout is not None
        self.pid = int(self.worker.stdout.readline())

    def kill(self) -> None:
        """End both."""
        for pid in (self.pid, self.worker.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        with self.worker:
            self.worker.kill()


@pytest.fixture
def helper(settings: Settings, redis_store: Store) -> Iterator[Helper]:
    """A worker with the incarnation w1, which holds one message, and its helper."""
    keys, queue = redis_store.keys, settings.queue_key()
    redis_store.run(flights.beat(keys, "w1", 1500, join=True))
    redis_store.run(flights.publish(keys, queue, b"m"))
    redis_store.run(flights.take(keys, "w1", 0, 1, [(queue, 1)]))
    made = Helper(settings, ["w1"])
    try:
        until(lambda: redis_store.client.hget(keys.procs, "w1") is not None, 15, "the first beat")
        yield made
    finally:
        made.kill()


def test_the_lease_is_renewed(helper: Helper, redis_store: Store) -> None:
    """For longer than it lasts, and the process is listed."""
    beats = redis_store.keys.beats
    first = redis_store.client.zscore(beats, "w1")
    until(lambda: redis_store.client.zscore(beats, "w1") >= first + 2000, 10, "the lease to outlive itself")
    assert json.loads(redis_store.client.hget(redis_store.keys.procs, "w1")) == {"pid": 1}


def test_a_dead_worker_returns_its_messages_at_once(
    helper: Helper, redis_store: Store, settings: Settings
) -> None:
    """End of file is death: no lease is waited for."""
    os.kill(helper.worker.pid, signal.SIGKILL)
    begin = time.monotonic()
    until(lambda: redis_store.client.llen(settings.queue_key()) == 1, 5, "the message to return")
    assert time.monotonic() - begin < settings.lease
    assert redis_store.client.zcard(redis_store.keys.beats) == 0
    assert redis_store.client.hlen(redis_store.keys.procs) == 0


def test_another_worker_sweeps_when_both_are_dead(
    helper: Helper, redis_store: Store, settings: Settings
) -> None:
    """The lease lapses, and whoever beats returns the messages; the dead is forgotten."""
    os.kill(helper.pid, signal.SIGKILL)
    os.kill(helper.worker.pid, signal.SIGKILL)
    other = Helper(settings, [])
    try:
        until(lambda: redis_store.client.llen(settings.queue_key()) == 1, 10, "the message to return")
        until(lambda: redis_store.client.zcard(redis_store.keys.beats) == 0, 10, "the dead to be forgotten")
    finally:
        other.kill()


def test_a_stopped_worker_is_not_kept_alive(helper: Helper, redis_store: Store, settings: Settings) -> None:
    """The helper still runs, but beats for a running worker only."""
    os.kill(helper.worker.pid, signal.SIGSTOP)
    until(lambda: redis_store.client.llen(settings.queue_key()) == 1, 10, "the message to return")


def test_a_worker_that_holds_the_gil_keeps_its_lease(
    workers: Any, settings: Settings, redis_store: Store, tmp_path: Path
) -> None:
    """A solo worker in a C call longer than its lease runs its task once; a helper that dies is replaced."""
    app = create_app(settings, load=False)
    worker = workers.start("solo", "-Q", settings.queue, settings=settings)
    keys, client, path = redis_store.keys, redis_store.client, tmp_path / "block"
    info = json.loads(until(lambda: client.hvals(keys.procs), 10, "the worker to be listed")[0])
    assert info["pid"] == worker.pid
    assert info["pool"] == "solo"
    assert info["queues"] == [settings.queue]
    app.send_task("plain.block", args=[str(path), 3.0], queue=settings.queue, ignore_result=True)
    until(path.exists, 10, "the task to start")
    other = Helper(settings, [])  # sweeps all the time
    try:
        until(Path(f"{path}.done").exists, 10, "the task to end")
        until(lambda: client.hlen(keys.flight(client.zrange(keys.beats, 0, 0)[0].decode())) == 0, 10)
    finally:
        other.kill()
        app.close()
    assert Path(f"{path}.done").read_text() == "x"
    os.kill(_helper_of(worker.pid), signal.SIGKILL)
    before = client.zscore(keys.beats, client.zrange(keys.beats, 0, 0)[0])
    name = client.zrange(keys.beats, 0, 0)[0]
    until(lambda: (client.zscore(keys.beats, name) or 0) > before + 1500, 10, "another helper to beat")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_without_its_helper_beats_itself(
    workers: Any, settings: Settings, redis_store: Store, tmp_path: Path, pool: str, how: signal.Signals
) -> None:
    """Its helper is killed again and again, or stopped, while a task runs for three leases."""
    app = create_app(settings, load=False)
    keys, client, path = redis_store.keys, redis_store.client, tmp_path / "nap"
    worker = workers.start(pool, "-Q", settings.queue, settings=settings)
    until(lambda: client.hvals(keys.procs), 10, "the worker to be listed")
    app.send_task("plain.nap", args=[str(path), 3 * settings.lease], queue=settings.queue, ignore_result=True)
    until(path.exists, 10, "the task to start")
    (name,) = client.hkeys(keys.procs)
    other, killed = Helper(settings, []), set[int]()  # `other` sweeps all the time
    try:
        while not Path(f"{path}.done").exists():
            for helper in _helpers_of(worker.pid) - killed:
                os.kill(helper, how)
                killed.add(helper)
            assert worker.poll() is None
            time.sleep(0.02)
        assert client.zscore(keys.beats, name) > 0
        until(lambda: client.hlen(keys.flight(name.decode())) == 0, 10, "the acknowledgement")
    finally:
        other.kill()
        app.close()
        for stopped in killed if how == signal.SIGSTOP else ():
            os.kill(stopped, signal.SIGCONT)
    assert killed
    assert path.read_text() == "x"


def _helpers_of(pid: int) -> set[int]:
    """The living."""
    found = set[int]()
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for one in child.read_text().split():
            with suppress(OSError):
                if b"celery_app.transport.beat" in Path(f"/proc/{one}/cmdline").read_bytes():
                    found.add(int(one))
    return found


def _helper_of(pid: int) -> int:
    (found,) = _helpers_of(pid)
    return found


# --- what a process holds, without Redis ----------------------------------------------------------


def test_pace() -> None:
    """Ahead is what starts within the span; nothing for a queue without experience; one slow run counts."""
    pace = Pace(0.05, 64)
    assert pace.ahead("q", 2) == 0
    pace.note("q", 0.001)
    assert pace.ahead("q", 1) == 50
    assert pace.ahead("q", 2) == 64
    pace.note("q", 10.0)
    assert pace.ahead("q", 2) == 0
    pace.note("zero", 0.0)
    assert pace.ahead("zero", 1) == 64


def test_acknowledgements_survive_a_failed_flush(store: Store) -> None:
    """They are kept, told again, and never told for a message that moved on."""
    flying = InFlight("redis://nowhere", store.keys, 1000, Pace())
    name = flying.settle(store.run)
    store.run(flights.publish(store.keys, "q", b"m"))
    taken = store.run(flights.take(store.keys, name, flying.numbers(1), 1, [("q", 1)]))
    assert isinstance(taken, Taken)
    flying.took(name, taken, ["q"])
    held = flying.next(1)
    assert held is not None
    assert flying.next(1) is None

    def broken(call: Any) -> Any:
        raise ConnectionError("gone")

    assert flying.finish(held.tag) is held
    assert flying.finish(held.tag) is None
    with pytest.raises(ConnectionError):
        flying.flush(broken)
    assert flying.pending.size == 1
    drawn = flying.draw()
    assert isinstance(drawn, Pending)
    flying.undraw(drawn)
    flying.leave(store.run, set())
    assert store.client.exists(store.keys.flight(name)) == 0
    assert flying.pending.size == 0
    assert store.client.llen("q") == 0


def test_an_acknowledgement_that_is_being_told_while_its_incarnation_is_given_up(store: Store) -> None:
    """A pool thread has drawn it, and before Redis has it the main thread settles: it must not run again."""
    flying = InFlight("redis://nowhere", store.keys, 1000, Pace())
    name = flying.settle(store.run)
    queue = f"{store.keys.hub}-q"
    for message in (b"done", b"runs"):
        store.run(flights.publish(store.keys, queue, message))
    taken = store.run(flights.take(store.keys, name, flying.numbers(2), 2, [(queue, 2)]))
    flying.took(name, taken, [queue])
    done, runs = flying.next(2), flying.next(2)
    assert done is not None
    assert runs is not None
    flying.finish(done.tag)

    def late(call: Any) -> Any:
        """Redis was restarted meanwhile, say: the main thread takes another name before this arrives."""
        flying.abandon()
        assert flying.settle(store.run) != name
        return store.run(call)

    flying.flush(late)
    assert store.client.lrange(queue, 0, -1) == []  # neither is in the queue again
    assert (
        list(store.client.hvals(store.keys.flight(flying.incarnation or ""))) != []
    )  # what runs is still ours
    flying.finish(runs.tag)
    flying.flush(store.run)
    assert flying._telling == []
    flying.leave(store.run, set())
    assert store.client.llen(queue) == 0


UNLUCKY = """
import json, os, resource, signal, sys, time
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.transport.helper import Helper
from celeriac.celery_app.transport.inflight import ROSTER

made = json.loads(sys.argv[1])
helper = Helper(Settings(**{**made, "apps": tuple(made["apps"])}), {"pid": os.getpid()})
helper.start()
ROSTER.add("w1")
first = helper._process
print(first.pid, flush=True)
sys.stdin.readline()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
first.kill()
while first.returncode is None:
    time.sleep(0.01)
time.sleep(0.5)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print("again", flush=True)
while helper._process is first:
    time.sleep(0.01)
print(helper._process.pid, flush=True)
sys.stdin.readline()
"""


def test_a_helper_that_cannot_be_started_at_once_is_started_later(
    settings: Settings, redis_store: Store
) -> None:
    """It died when the worker had no file descriptor (or no memory) left for another one."""
    keys, client = redis_store.keys, redis_store.client
    redis_store.run(flights.beat(keys, "w1", 1500, join=True))
    command = [sys.executable, "-c", UNLUCKY, json.dumps(asdict(settings))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdout.readline()
            until(lambda: client.hget(keys.procs, "w1") is not None, 30, "the first beat")
            worker.stdin.write("go\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "again\n"
            before = client.zscore(keys.beats, "w1")
            until(lambda: client.zscore(keys.beats, "w1") > before + 1500, 30, "the lease to be renewed")
            assert select.select([worker.stdout], [], [], 30)[0], "no other helper was started"
        finally:
            worker.kill()
    until(lambda: client.zscore(keys.beats, "w1") is None, 30, "the new helper to see that the worker died")
