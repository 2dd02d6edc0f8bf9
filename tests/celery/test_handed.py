"""A prefork worker that loses its connection: what a child has is not given away, and no child keeps a copy
of the socket.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attack import Fighter

from celeriac.celery_app.settings import Settings

TASKS = """
import os, time
from celeriac.activities import activity
from celeriac.celery_app import app

def note(path):
    with open(path, "a") as file:
        file.write("x")

@app.task(name="plain.early", acks_late=False)
def early(path):
    note(path)

@app.task(name="plain.late")
def late(path):
    note(path)

@app.task(name="plain.hold")
def hold(path):
    note(path)
    while not os.path.exists(path + ".go"):
        time.sleep(0.02)
    note(path + ".done")

@activity(name="an.activity")
def noted(path: str) -> None:
    note(path)
"""


@pytest.fixture(scope="module")
def bench_settings(redis_server: Any) -> Settings:
    """A hub and a queue for this module."""
    name = f"h{os.urandom(3).hex()}"
    settings = Settings(redis_url=redis_server.url, hub=name, queue=f"q{name}", apps=("acts",))
    return replace(settings, lease=60.0, beat=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project."""
    path = tmp_path_factory.mktemp("project")
    (path / "acts.py").write_text(TASKS)
    return path


def unread(pid: int) -> int:
    """The bytes that wait in pipes for this process to read them."""
    total = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if not os.readlink(entry).startswith("pipe:"):
            continue
        with open(os.open(entry, os.O_RDWR | os.O_NONBLOCK), "rb+", buffering=0) as pipe:
            total += struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]
    return total


@pytest.mark.parametrize("name", ["plain.early", "plain.late", "an.activity"])
def test_what_a_child_has_runs_once_after_a_cut(bench: Any, workers: Any, tmp_path: Path, name: str) -> None:
    """The child has the message, and the worker has not heard from it yet, as its connection is cut."""
    path, queue, keys, client = tmp_path / "runs", bench.settings.queue, bench.store.keys, bench.store.client
    worker = Fighter("w", workers.start("prefork", "-c", "1", "-Q", queue))
    (child,) = worker.children()
    bench.app.send_task("plain.late", args=[str(tmp_path / "first")], queue=queue, ignore_result=True)
    bench.wait_for((tmp_path / "first").exists, 30, "the child to be up")

    def flying() -> int:
        return sum(client.hlen(key) for key in client.scan_iter(f"{keys.flight('')}*"))

    def incarnations() -> set[bytes]:
        return {name for name in client.zrange(keys.beats, 0, -1) if name.startswith(b"w")}

    before = bench.wait_for(incarnations, 30, "the worker to join")
    os.kill(child, signal.SIGSTOP)
    try:
        idle = unread(child)
        if name == "an.activity":
            bench.call(f"i-{name}", name, f'[["{path}"],{{}}]')
        else:
            bench.app.send_task(name, args=[str(path)], queue=queue, ignore_result=True)
        bench.wait_for(lambda: unread(child) > idle, 30, "the message to be in the child's pipe")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        bench.wait_for(lambda: incarnations() - before, 30, "the worker to have another connection")
    finally:
        os.kill(child, signal.SIGCONT)
    bench.wait_for(path.exists, 30, "the task to run")
    bench.wait_for(
        lambda: not flying() and not client.llen(bench.settings.queue_key()), 30, "no message left"
    )
    # It still takes work: the slot is free.
    bench.app.send_task("plain.late", args=[str(tmp_path / "next")], queue=queue, ignore_result=True)
    bench.wait_for((tmp_path / "next").exists, 30, "the next task to run")
    assert path.read_text() == "x"
    worker.process.terminate()
    assert worker.process.wait(30) == 0


def stale(pid: int) -> list[str]:
    """What this process polls under a number that stands for another file by now."""
    found = []
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        for line in entry.read_text().splitlines():
            if line.startswith("tfd:"):
                number, inode = line.split()[1], int(line.rpartition("ino:")[2].split()[0], 16)
                path = Path(f"/proc/{pid}/fd/{number}")
                if not path.exists() or path.stat().st_ino != inode:
                    found.append(line)
    return found


def test_a_lost_connection_is_polled_no_more(bench: Any, workers: Any, tmp_path: Path) -> None:
    """A child that was forked while it was open held it open, and the worker waited for what nobody sends."""
    queue, client = bench.settings.queue, bench.store.client
    worker = Fighter("w", workers.start("prefork", "-c", "1", "-Q", queue))
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    bench.wait_for(lambda: worker.children() not in ([], [child]), 30, "another child")
    for n in range(3):
        path = tmp_path / f"run{n}"
        bench.app.send_task("plain.hold", args=[str(path)], queue=queue, ignore_result=True)
        bench.wait_for(path.exists, 30, "a task to run")
        # The worker is busy: it waits for nothing from Redis, and makes another connection when it needs one.
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        Path(f"{path}.go").touch()
        bench.wait_for(Path(f"{path}.done").exists, 30, "the task to end")
    bench.wait_for(lambda: not stale(worker.process.pid), 5, "only open files to be polled")
    worker.process.terminate()
    assert worker.process.wait(30) == 0
