"""The transport under load and under attack: real workers, real Redis, a task that appends a line for
each run.

One run of a task is one line. `stand` counts where messages are: done, queued, in a flight record or
parked.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celeriac.celery_app.app import create_app
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store, flights

TASKS = """
import os, time
from celeriac.celery_app import app

def write(path, line):
    with open(path, "a") as file:
        file.write(f"{line}\\n")

@app.task(name="plain.count")
def count(path, n, pause=0):
    if pause:
        time.sleep(pause)
    write(path, n)

@app.task(name="plain.hold")
def hold(path, n, seconds):
    write(path + ".started", n)
    time.sleep(seconds)
    write(path, n)

@app.task(name="plain.early", acks_late=False)
def early(path, n, seconds):
    hold(path, n, seconds)
"""

POOLS = ("prefork", "threads", "solo")


def until(condition: Callable[[], Any], seconds: float = 20, what: str = "") -> Any:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


@dataclass
class Scene:
    """One queue, one file of runs, and the workers of one test."""

    settings: Settings
    store: Store
    app: Celery
    folder: Path
    workers: Any
    path: Path
    sent: int = 0
    started: list[Any] = field(default_factory=list)

    def worker(self, pool: str, *more: str, **options: Any) -> Any:
        """A worker that serves this queue only."""
        options.setdefault("settings", self.settings)
        process = self.workers.start(pool, "-Q", self.settings.queue, *more, **options)
        self.started.append(process)
        return process

    def count(self, n: int, pause: float = 0, app: Celery | None = None, **options: Any) -> None:
        """Publish n counting tasks."""
        app = app or self.app
        with app.producer_pool.acquire() as producer:
            for _ in range(n):
                self._send(
                    app, "plain.count", [str(self.path), self.sent, pause], producer=producer, **options
                )

    def hold(self, seconds: float, name: str = "plain.hold") -> None:
        """Publish a task that writes to `.started`, sleeps, and counts."""
        self._send(self.app, name, [str(self.path), self.sent, seconds])

    def hold_and_count(self, seconds: float) -> None:
        """Publish a long task and two short ones in one instant, so that one take gets all three."""
        aside = f"{self.settings.queue}.aside"
        self._send(self.app, "plain.hold", [str(self.path), self.sent, seconds], queue=aside)
        for _ in range(2):
            self._send(self.app, "plain.count", [str(self.path), self.sent, 0], queue=aside)
        self.store.client.rename(self.settings.queue_key(aside), self.settings.queue_key())
        self.store.client.lpush(self.store.keys.token(self.settings.queue_key()), "1")
        until(lambda: self.runs(".started"), 10, "the long task to start")
        until(lambda: self.stand()["flying"] == 3, seconds, "one running and two reserved")

    def _send(self, app: Celery, name: str, args: list[Any], queue: str = "", **options: Any) -> None:
        app.send_task(name, args=args, queue=queue or self.settings.queue, ignore_result=True, **options)
        self.sent += 1

    def runs(self, suffix: str = "") -> Counter[int]:
        """How often each task ran."""
        path = Path(f"{self.path}{suffix}")
        return Counter(map(int, path.read_text().split())) if path.exists() else Counter()

    def all_done(self, seconds: float = 20) -> Counter[int]:
        """Wait until each task ran at least once."""
        until(lambda: len(self.runs()) == self.sent, seconds, f"{self.sent} tasks done, {self.stand()}")
        return self.runs()

    def stand(self) -> dict[str, Any]:
        """Where the messages are."""
        client, keys = self.store.client, self.store.keys
        flying = {key.decode(): client.hlen(key) for key in client.scan_iter(f"{keys.flight('')}*")}
        return {
            "done": len(self.runs()),
            "queued": client.llen(self.settings.queue_key()),
            "flying": sum(flying.values()),
            "parked": client.zcard(keys.parked),
        }

    def nothing_left(self) -> None:
        """Every message was acknowledged."""
        empty = {"done": self.sent, "queued": 0, "flying": 0, "parked": 0}
        until(lambda: self.stand() == empty, 10, f"nothing left behind: {self.stand()}")

    def cut(self) -> None:
        """Kill every connection to Redis but the one that says so."""
        self.store.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def end(self) -> None:
        """Kill the workers of this test."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project."""
    path = tmp_path_factory.mktemp("project")
    (path / "acts.py").write_text(TASKS)
    return path


@pytest.fixture
def scene(redis_server: Any, folder: Path, workers: Any, tmp_path: Path) -> Iterator[Scene]:
    """A hub and queue of its own, with short leases."""
    name = f"x{os.urandom(3).hex()}"
    settings = Settings(
        redis_url=redis_server.url, hub=name, queue=f"q{name}", apps=("acts",), lease=2.0, beat=0.4
    )
    app = create_app(settings, load=False)
    with Store.connect(settings) as store:
        made = Scene(settings, store, app, folder, workers, tmp_path / "runs")
        try:
            yield made
        finally:
            made.end()
    app.close()


@pytest.mark.parametrize("pool", POOLS)
def test_each_runs_once(scene: Scene, pool: str) -> None:
    """A queue of 500 is drained, each task runs once, and the worker leaves when told."""
    scene.count(500)
    worker = scene.worker(pool, wait=False)
    assert set(scene.all_done(30).values()) == {1}
    scene.nothing_left()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == 0
    assert scene.store.client.zcard(scene.store.keys.beats) == 0


@pytest.mark.parametrize("pool", POOLS)
def test_sigkill_in_the_middle(scene: Scene, pool: str) -> None:
    """Every task is done, queued or in a flight record; the next worker does the rest."""
    scene.count(200, 0.005)
    worker = scene.worker(pool, wait=False)
    until(lambda: len(scene.runs()) >= 30, 20, "the worker to be in the middle")
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    stand = scene.stand()
    assert stand["queued"] > 0
    assert stand["done"] + stand["queued"] + stand["flying"] >= scene.sent
    scene.worker(pool, wait=False)
    runs = scene.all_done(25)
    assert sum(runs.values()) - scene.sent <= 64, "only what was in flight may have run twice"
    scene.nothing_left()


@pytest.mark.parametrize("pool", POOLS)
def test_warm_stop_gives_back(scene: Scene, pool: str) -> None:
    """A worker that is told to stop finishes what runs and returns the rest at once."""
    scene.count(200, 0.01)
    worker = scene.worker(pool, wait=False)
    until(lambda: len(scene.runs()) >= 30, 20, "the worker to be in the middle")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == 0
    stand = scene.stand()
    assert stand["flying"] == 0
    assert stand["done"] + stand["queued"] == scene.sent
    assert stand["queued"] > 0
    assert set(scene.runs().values()) == {1}


@pytest.mark.parametrize("pool", POOLS)
def test_cut_connection_with_one_running_and_two_reserved(scene: Scene, pool: str) -> None:
    """Nothing is lost, nothing runs twice, nothing is stranded on the living worker."""
    scene.count(40)
    scene.worker(pool, "-c", "1", wait=False)
    scene.all_done()  # the worker has learnt that this queue is quick, and takes ahead
    scene.hold_and_count(3)
    scene.cut()
    assert set(scene.all_done(15).values()) == {1}
    scene.nothing_left()


@pytest.mark.parametrize("pool", POOLS)
def test_cut_again_and_again(scene: Scene, pool: str) -> None:
    """Cutting every connection ten times under load loses nothing; the worker lives on."""
    scene.count(300, 0.005)
    worker = scene.worker(pool, wait=False)
    for done in range(20, 200, 30):
        until(lambda done=done: len(scene.runs()) >= done, 20, f"{done} done, {scene.stand()}")
        scene.cut()
    scene.all_done(25)
    scene.nothing_left()
    assert worker.poll() is None


def test_reserved_behind_a_long_task_goes_to_an_idle_worker(scene: Scene) -> None:
    """What has not started after a second is handed back, also by a solo worker that is busy."""
    scene.count(20)
    scene.worker("solo", wait=False)
    scene.all_done()
    scene.hold_and_count(4)
    scene.worker("solo", wait=False)
    until(lambda: len(scene.runs()) == 22, 3.5, f"the short tasks to be done elsewhere: {scene.stand()}")
    assert set(scene.all_done().values()) == {1}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_early_acknowledgement_is_told_before_the_task_ends(scene: Scene, pool: str) -> None:
    """Who asked for at most once gets it: while the task runs, its message is gone. A late one is kept."""
    scene.worker(pool)
    scene.hold(1.0, "plain.early")
    until(lambda: scene.runs(".started"), 10, "the task to start")
    until(lambda: scene.stand()["flying"] == 0, 0.6, "the message to be acknowledged")
    assert not scene.runs()
    scene.hold(0.5)
    until(lambda: len(scene.runs(".started")) == 2, 10, "the other task to start")
    assert scene.stand()["flying"] == 1
    scene.all_done()
    scene.nothing_left()


def test_countdown_survives_sigkill(scene: Scene) -> None:
    """A task with a countdown lies in Redis, not in a worker, and runs at its time."""
    stock = create_app(replace(scene.settings, transport="stock"), load=False)
    worker = scene.worker("threads")
    begin = time.monotonic()
    scene.count(1, countdown=2.5)
    scene.count(1, countdown=2.5, app=stock)  # lies in the queue; our worker parks it when it takes it
    until(lambda: scene.stand()["parked"] == 2, 2, f"both to be parked: {scene.stand()}")
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    scene.worker("threads", wait=False)
    assert set(scene.all_done(15).values()) == {1}
    assert time.monotonic() - begin > 2.4
    stock.close()


def test_a_stock_worker_consumes_what_we_publish(scene: Scene) -> None:
    """The wire is kombu's own."""
    scene.count(20)
    scene.count(5, priority=6)
    scene.worker("solo", settings=replace(scene.settings, transport="stock"), wait=False)
    assert set(scene.all_done().values()) == {1}


def test_a_stock_publisher_is_noticed_within_a_second(scene: Scene) -> None:
    """It leaves no token; priorities are served too."""
    stock = create_app(replace(scene.settings, transport="stock"), load=False)
    scene.worker("threads")
    for priority in (0, 9, 3):
        scene.count(1, app=stock, priority=priority)
        until(lambda: len(scene.runs()) == scene.sent, 1.5, "a stock publisher's task")
    scene.nothing_left()
    stock.close()


def test_a_paused_worker_is_fenced_and_comes_back(scene: Scene) -> None:
    """Its messages go to others when its lease lapses; it goes on under another incarnation."""
    scene.count(20)
    worker = scene.worker("threads", "-c", "1", wait=False)
    scene.all_done()
    first = set(scene.store.client.zrange(scene.store.keys.beats, 0, -1))
    scene.hold(0.3)
    until(lambda: scene.runs(".started"), 10, "the task to start")
    os.kill(worker.pid, signal.SIGSTOP)
    other = scene.worker("threads", "-c", "1", wait=False)
    scene.all_done()  # by the other one, after the lease
    os.kill(worker.pid, signal.SIGCONT)
    until(
        lambda: first.isdisjoint(scene.store.client.zrange(scene.store.keys.beats, 0, -1)),
        10,
        "a new incarnation",
    )
    os.killpg(other.pid, signal.SIGKILL)
    other.wait()
    scene.count(5)
    scene.all_done(10)
    scene.nothing_left()


def test_a_message_nobody_can_read_is_set_aside(scene: Scene) -> None:
    """It crashes no worker, blocks nothing and is kept with the reason."""
    scene.worker("solo")
    client, keys = scene.store.client, scene.store.keys
    bad = [
        b"not json",
        b'{"properties": {}}',
        b"[1, 2]",
        b'{"headers": {"task": "x"}, "properties": {"delivery_tag": "1"}}',
    ]
    client.lpush(scene.settings.queue_key(), *bad)
    scene.count(3)
    scene.all_done()
    aside = until(
        lambda: client.llen(keys.path("aside")) == len(bad) and client.lrange(keys.path("aside"), 0, -1)
    )
    assert all(entry.split(b"\n")[1] == scene.settings.queue_key().encode() for entry in aside)
    scene.nothing_left()


def test_forged_and_closed_steps_never_run(scene: Scene) -> None:
    """The take itself drops what claims to be a step and is not open, or not at this attempt."""
    scene.worker("solo")
    header = {"celeriac-step": "00000000deadbeef:1:1"}
    scene.app.send_task("plain.count", args=[str(scene.path), 99], queue=scene.settings.queue, headers=header)
    scene.store.client.hset(scene.store.keys.open("00000000deadbee0"), "1", "2")
    header = {"celeriac-step": "00000000deadbee0:1:1"}
    scene.app.send_task("plain.count", args=[str(scene.path), 98], queue=scene.settings.queue, headers=header)
    scene.count(1)
    assert scene.all_done() == {0: 1}
    scene.nothing_left()
    assert scene.store.run(flights.promote(scene.store.keys)) == (0, -1)
