"""Hazards that only a whole worker shows (H3, H4, H9 to H12, H18, H20, H31, H32): stock ones beside ours.

`late` is a stock worker that acknowledges late, with a visibility timeout short enough to be seen; `plain`
has Celery's defaults and one thread; `lossy` requeues what its processes die of; `ours` is a worker of
Celeriac. All of them run the same tasks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from brokers import until
from celery import Celery

from celeriac.celery_app.app import create_app
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store

TASKS = """
import os
import time

def define(app):
    def note(path, line):
        with open(path, "a") as file:
            file.write(line)

    @app.task(name="hold", shared=False)
    def hold(path, seconds):
        note(path, "x")
        time.sleep(seconds)
        note(path + ".done", "x")

    @app.task(name="die", shared=False)
    def die(path):
        note(path, "x")
        os._exit(1)

    @app.task(name="limited", shared=False, rate_limit="1/h")
    def limited(path):
        note(path, "x")
"""
STOCK = """
import json, os
from celery import Celery
from tasks import define
app = Celery("stock", broker=os.environ["STOCK_URL"], backend=os.environ["STOCK_URL"])
app.conf.update(json.loads(os.environ["STOCK_CONF"]))
define(app)
"""
OURS = "from celeriac.celery_app import app\nfrom tasks import define\ndefine(app)\n"
SEEN = 4  # seconds: the visibility timeout of `late`
LATE = {
    "task_acks_late": True,
    "broker_transport_options": {
        "visibility_timeout": SEEN, "unacked_restore_interval": 1, "unacked_restore_throttle": 1,
    },
}  # fmt: skip
LOSSY = {"task_acks_late": True, "task_reject_on_worker_lost": True, "worker_lost_wait": 0.1}
STOCK_WORKERS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("late", "threads", 4, LATE),
    ("plain", "threads", 1, {}),
    ("lossy", "prefork", 1, LOSSY),
)


@dataclass
class Fleet:
    """Workers on databases of one Redis, so that each has lists of its own."""

    url: str
    folder: Path
    settings: Settings
    apps: dict[str, Celery] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def address(self, name: str) -> str:
        """The database of a worker."""
        return self.url.replace("/0", f"/{['ours', 'late', 'plain', 'lossy'].index(name) + 1}")

    def client(self, name: str) -> redis.Redis:
        """A client of that database."""
        return redis.Redis.from_url(self.address(name))

    def start(self, name: str, pool: str, size: int, module: str, **environ: str) -> None:
        """Start a worker."""
        command = [sys.executable, "-m", "celery", "-A", module, "worker", "-P", pool, "-c", str(size)]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [*command, "-n", f"{name}@hazards", "-l", "INFO"], cwd=self.folder,
                env={**os.environ, **environ}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> str:
        """What a worker has written."""
        return (self.folder / f"{name}.log").read_text()

    def send(self, name: str, task: str, path: str, *args: Any, **options: Any) -> None:
        """Publish a task to one worker; its runs are counted in `path`."""
        target = str(self.folder / f"{name}-{path}")
        self.apps[name].send_task(task, [target, *args], ignore_result=True, **options)

    def runs(self, name: str, path: str) -> int:
        """How often it was started there."""
        file = self.folder / f"{name}-{path}"
        return len(file.read_text()) if file.exists() else 0

    def unacked(self, name: str) -> int:
        """Messages of which Redis knows that a stock worker has them."""
        with self.client(name) as client:
            return int(client.hlen("unacked"))

    def queued(self, name: str) -> int:
        """Messages in a stock worker's queue."""
        with self.client(name) as client:
            return int(client.llen("celery"))

    def end(self) -> None:
        """Kill the workers."""
        for process in self.running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for app in self.apps.values():
            app.close()
        for name in self.running:
            with self.client(name) as client:
                client.flushdb()


@pytest.fixture(scope="module")
def fleet(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The workers, ready."""
    folder = tmp_path_factory.mktemp("fleet")
    for name, text in (("tasks", TASKS), ("stock", STOCK), ("acts", OURS)):
        (folder / f"{name}.py").write_text(text)
    made = Fleet(server, folder, Settings())
    made.settings = Settings(redis_url=made.address("ours"), hub="fleet", apps=("acts",), lease=3.0, beat=0.5)
    try:
        made.start("ours", "threads", 4, "celeriac.celery_app", **made.settings.environment())
        for name, pool, size, conf in STOCK_WORKERS:
            url = made.address(name)
            made.start(name, pool, size, "stock", STOCK_URL=url, STOCK_CONF=json.dumps(conf))
            made.apps[name] = Celery(broker=url, backend=url, set_as_current=False)
        made.apps["ours"] = create_app(made.settings, load=False)
        for name in made.running:
            until(lambda name=name: " ready." in made.log(name), 60, f"worker {name} to be ready")
        made.send("lossy", "die", "death")
        yield made
    finally:
        made.end()


def test_h10_a_task_longer_than_the_visibility_timeout(fleet: Fleet) -> None:
    """Stock starts it again while it runs; ours does not, though it runs for several leases."""
    for name in ("late", "ours"):
        fleet.send(name, "hold", "long", 2.5 * SEEN)
    until(lambda: fleet.runs("late", "long") > 1, what="stock to run it twice")
    until(lambda: fleet.runs("ours", "long.done"), what="ours to be done")
    assert fleet.runs("ours", "long") == 1


def test_h11_a_countdown_longer_than_the_visibility_timeout(fleet: Fleet) -> None:
    """Stock gives it to several timers; ours waits in Redis, once."""
    for name in ("late", "ours"):
        fleet.send(name, "hold", "due", 0, countdown=2.5 * SEEN)
    until(lambda: fleet.runs("late", "due") > 1, what="stock to run it twice")
    until(lambda: fleet.runs("ours", "due.done"), what="ours to be done")
    assert fleet.runs("ours", "due") == 1


def test_h12_a_connection_that_is_cut_while_a_task_runs(fleet: Fleet) -> None:
    """Stock restores what runs and takes it again; ours keeps it over the reconnection."""
    for name in ("late", "ours"):
        fleet.send(name, "hold", "cut", 3)
        until(lambda name=name: fleet.runs(name, "cut"), what="the task to start")
    with fleet.client("ours") as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    until(lambda: fleet.runs("late", "cut") > 1, what="stock to run it twice")
    until(lambda: fleet.runs("ours", "cut.done"), what="ours to be done")
    fleet.send("ours", "hold", "behind", 0)
    until(lambda: fleet.runs("ours", "behind.done"), what="ours to have reconnected")
    assert fleet.runs("ours", "cut") == 1


def test_h09_countdowns_fill_the_memory_of_one_worker(fleet: Fleet) -> None:
    """Stock hands out all of them, beyond any prefetch; ours leaves them in Redis."""
    for name in ("plain", "ours"):
        for n in range(30):
            fleet.send(name, "hold", f"eta{n}", 0, countdown=3600)
    until(lambda: fleet.unacked("plain") == 30, what="stock to have taken all")
    with Store.connect(fleet.settings) as store:
        keys = store.keys
        until(lambda: store.client.zcard(keys.parked) == 30, what="ours to be parked")
        flying = [store.client.hlen(key) for key in store.client.scan_iter(f"{keys.flight('')}*")]
        assert sum(flying) == 0
        store.client.delete(keys.parked, keys.parked_body)


def test_h03_h20_what_runs_is_forgotten_and_what_waits_is_reserved(fleet: Fleet) -> None:
    """Stock: the message of a running task is gone, three more are held behind it, invisible to others."""
    before = fleet.unacked("plain")
    for n in range(4):
        fleet.send("plain", "hold", f"row{n}", 3)
    until(lambda: fleet.runs("plain", "row0"), what="the first to start")
    until(lambda: fleet.queued("plain") == 0, what="the others to be reserved")
    assert fleet.unacked("plain") - before == 3
    assert fleet.runs("plain", "row1") == 0


def test_h32_a_rate_limit_holds_messages_in_the_worker(fleet: Fleet) -> None:
    """Ours runs both: throttling in a worker's memory is off."""
    before = fleet.unacked("late")
    for name in ("late", "ours"):
        for n in range(2):
            fleet.send(name, "limited", f"limit{n}")
    until(lambda: fleet.runs("ours", "limit0") + fleet.runs("ours", "limit1") == 2, what="ours to run both")
    until(lambda: fleet.runs("late", "limit0"), what="stock to run the first")
    assert (fleet.runs("late", "limit1"), fleet.unacked("late") - before) == (0, 1)


def test_h04_a_task_that_kills_its_process_is_run_again_for_ever(fleet: Fleet) -> None:
    """With the setting that Celery offers against its loss. (Ours: see `celery/test_deaths.py`.)

    Each round takes seconds, so the fixture has begun it.
    """
    until(lambda: fleet.runs("lossy", "death") > 1 + fleet.settings.max_lost, 60, "stock to go on and on")
    assert fleet.running["lossy"].poll() is None


def test_h31_a_broadcast_stops_stock_workers(fleet: Fleet) -> None:
    """Anybody who can publish can; ours has no remote control."""
    for name in ("plain", "ours"):
        fleet.apps[name].control.shutdown()
    until(lambda: fleet.running["plain"].poll() is not None, 60, "stock to stop")
    fleet.send("ours", "hold", "still", 0)
    until(lambda: fleet.runs("ours", "still.done"), what="ours to work on")
    assert fleet.running["ours"].poll() is None


def test_h18_a_master_that_becomes_a_replica_for_a_moment(fleet: Fleet) -> None:
    """Stock ends with "Unrecoverable error"; ours is there when the master is."""
    with fleet.client("ours") as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            until(lambda: fleet.running["late"].poll() is not None, 60, "stock to end")
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")
    fleet.send("ours", "hold", "after", 0)
    until(lambda: fleet.runs("ours", "after.done"), 60, "ours to work on")
    assert fleet.running["ours"].poll() is None
    assert "Unrecoverable error" in fleet.log("late")
