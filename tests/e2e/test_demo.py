"""`celeriac demo` as a person runs it: to the end, under kill -9, and cut short by Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spoken import COMMAND, Spoken, gone

AFTER_A_KILL = 30.0


class Demo(Spoken):
    """A running demo; its output is a pipe, so it prints changes as lines."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.temporary = folder / "t"
        self.temporary.mkdir()
        # A demo that used a real Redis would be a bad joke.
        super().__init__(
            folder, "demo", *arguments, TMPDIR=str(self.temporary), CELERIAC_REDIS_URL="redis://127.0.0.1:1/0"
        )

    def pids(self) -> dict[str, list[int]]:
        """What it said it started: orchestrators, workers, redis."""
        found: dict[str, list[int]] = {}
        for line in self.lines:
            if match := re.search(r"^(?:celeriac (\w+)|(Redis)).* pid (\d+)$", line):
                found.setdefault(match[1] or match[2], []).append(int(match[3]))
        return found


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
        demo.put_down()


def _nothing_is_left(demo: Demo) -> None:
    pids = [pid for group in demo.pids().values() for pid in group]
    assert len(pids) == 4
    assert all(gone(pid) for pid in pids)
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
    assert demo.end(110) == 0, demo.text
    assert "Everything was right" in demo.text
    said = "".join(demo.text.split())  # its lines are broken where the path is long
    assert "".join(f"302 files of {folder} are in the manifest".split()) in said
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
    demo.until("Everything was right", seconds=AFTER_A_KILL)
    assert time.monotonic() - killed < AFTER_A_KILL
    assert demo.end(110) == 0, demo.text
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
    assert demo.end(110) == 1
    assert re.search("✗ not ended in time: .*expense-hotel", demo.text)
    assert "what the processes said last" in demo.text
    _nothing_is_left(demo)


def test_one_can_stay_and_look_around(start: Start) -> None:
    demo = start("--stay")
    demo.until("Ctrl-C stops it")
    url = next(line.split("'")[1] for line in demo.lines if "export CELERIAC_REDIS_URL=" in line)
    look = [*COMMAND, "--redis", url, "list", "--status", "Failed", "--json"]
    listed = subprocess.run(look, capture_output=True, text=True, check=True, timeout=60)
    assert [state["name"] for state in json.loads(listed.stdout)["instances"]] == ["ship_order"]
    demo.process.send_signal(signal.SIGINT)
    assert demo.end(30) == 0
    _nothing_is_left(demo)
