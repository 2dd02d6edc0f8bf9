"""`celeriac demo` as a person runs it: to the end, under kill -9, and cut short by Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "celeriac.cli.main", "demo"]
AFTER_A_KILL = 30.0


class Demo:
    """A running demo; its output is a pipe, so it prints changes as lines."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.temporary = folder / "t"
        self.temporary.mkdir()
        self.lines: list[str] = []
        self._news = threading.Condition()
        # Settings of the caller must not leak in: a demo that used a real Redis would be a bad joke.
        environ = {**os.environ, "TMPDIR": str(self.temporary), "CELERIAC_REDIS_URL": "redis://127.0.0.1:1/0"}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, env=environ, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, word: str, seconds: float = 60) -> None:
        with self._news:
            there = self._news.wait_for(lambda: any(word in line for line in self.lines), seconds)
        assert there, f"no {word!r} in\n{self.text}"

    def pids(self) -> dict[str, list[int]]:
        """What it said it started: orchestrators, workers, redis."""
        found: dict[str, list[int]] = {}
        for line in self.lines:
            if match := re.search(r"^(?:celeriac (\w+)|(Redis)).* pid (\d+)$", line):
                found.setdefault(match[1] or match[2], []).append(int(match[3]))
        return found

    def end(self, seconds: float = 110) -> int:
        code = self.process.wait(seconds)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


Start = Callable[..., Demo]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a demo; whatever is left of it at the end is killed."""
    started: list[Demo] = []

    def begin(*arguments: str) -> Demo:
        demo = Demo(tmp_path, *arguments)
        started.append(demo)
        return demo

    yield begin
    for demo in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(demo.process.pid, signal.SIGKILL)
        demo.end()


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _nothing_is_left(demo: Demo) -> None:
    pids = [pid for group in demo.pids().values() for pid in group]
    assert len(pids) == 4
    assert all(_gone(pid) for pid in pids)
    assert list(demo.temporary.iterdir()) == []


def test_it_backs_up_a_folder_and_everything_is_right(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    (folder / "deep" / "er").mkdir(parents=True)
    for n in range(300):
        (folder / "deep" / f"page {n}.html").write_text(f"page {n % 7}" * (n + 1))
    (folder / "deep" / "er" / "ünïcode 🌱.bin").write_bytes(os.urandom(3 * 2**20))
    (folder / "empty").touch()
    (folder / "link").symlink_to("empty")
    demo = start("--path", str(folder))
    assert demo.end() == 0, demo.text
    assert "Everything was right" in demo.text
    assert f"302 files of {folder} are in the manifest" in demo.text
    assert "✗" not in demo.text.replace("✗ Failed", ""), (
        "only the shipment to nowhere fails, and its order says so"
    )
    rows = {line.split()[0]: line for line in demo.lines if "✓ Completed" in line or "✗ Failed" in line}
    assert len(rows) == 11
    assert "304" in rows["backup"]
    assert rows["order-flaky"].split()[-1] == "2", "retries"
    assert re.search(r"order-nowhere:\w+ +✗ Failed +UndeliverableError", demo.text)
    assert any(line.startswith("$ celeriac raise-event expense-train") for line in demo.lines)
    _nothing_is_left(demo)


@pytest.mark.parametrize(
    "victims", [["orchestrator"], ["worker"], ["orchestrator", "worker", "worker"]], ids="+".join
)
def test_kill_9_in_the_middle_loses_nothing(start: Start, tmp_path: Path, victims: list[str]) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    for n in range(2000):
        (folder / f"{n}.txt").write_text(f"{n}" * 100)
    demo = start("--path", str(folder))
    demo.until("store_file")
    pids = demo.pids()
    for victim in victims:
        os.kill(pids[victim].pop(), signal.SIGKILL)
    killed = time.monotonic()
    demo.until("Everything was right", AFTER_A_KILL)
    assert time.monotonic() - killed < AFTER_A_KILL
    assert demo.end() == 0, demo.text
    assert "killed by SIGKILL" in demo.text
    assert f"although {len(victims)} process{'es' if len(victims) > 1 else ''} died" in demo.text
    assert "2000 files" in demo.text.replace(",", "")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_cut_short_it_still_cleans_up(start: Start, signum: signal.Signals) -> None:
    demo = start()
    demo.until("expense-hotel")
    demo.process.send_signal(signum)
    assert demo.end(30) == 130
    assert "Interrupted." in demo.text
    _nothing_is_left(demo)


def test_what_does_not_end_in_time_fails_the_demo(start: Start) -> None:
    demo = start("--timeout", "2")
    assert demo.end() == 1
    assert re.search("✗ not ended in time: .*expense-hotel", demo.text)
    assert "what the processes said last" in demo.text
    _nothing_is_left(demo)


def test_one_can_stay_and_look_around(start: Start) -> None:
    demo = start("--stay")
    demo.until("Ctrl-C stops it")
    url = next(line.split("'")[1] for line in demo.lines if "export CELERIAC_REDIS_URL=" in line)
    look = [sys.executable, "-m", "celeriac.cli.main", "--redis", url, "list", "--status", "Failed", "--json"]
    listed = subprocess.run(look, capture_output=True, text=True, check=True, timeout=60)
    assert [state["name"] for state in json.loads(listed.stdout)] == ["ship_order"]
    demo.process.send_signal(signal.SIGINT)
    assert demo.end(30) == 0
    _nothing_is_left(demo)
