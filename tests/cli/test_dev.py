"""`celeriac dev` in a folder of one's own, with real processes, from start to Ctrl-C and again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.cli.exits import Exit

MODULE = """
from datetime import timedelta
from celeriac.activities import activity
from celeriac.orchestrations import OrchestrationContext, orchestrator, when_all

@activity
def double(x: int) -> int:
    return 2 * x

@orchestrator
async def doubled(ctx: OrchestrationContext, xs: list[int]) -> list[int]:
    return await when_all([ctx.call_activity(double, x) for x in xs])

@orchestrator
async def slowly(ctx: OrchestrationContext, x: int) -> int:
    await ctx.create_timer(timedelta(seconds=1.5))
    return await ctx.call_activity(double, x)

@orchestrator
async def broken(ctx: OrchestrationContext) -> None:
    raise ValueError("on purpose")
"""
COMMAND = [sys.executable, "-m", "celeriac.cli.main"]
PATIENCE = 40.0


class Dev:
    """A running `celeriac dev` and everything it prints."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self._news = threading.Condition()
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CELERIAC_")}
        self.process = subprocess.Popen(
            [*COMMAND, "dev", *arguments], cwd=folder, env=environ, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()

    def until(self, *words: str) -> None:
        """Wait until it has printed a line with all of these words."""

        def there() -> bool:
            return any(all(word in line for word in words) for line in self.lines)

        with self._news:
            assert self._news.wait_for(there, PATIENCE), f"no line with {words} in\n" + "\n".join(self.lines)

    def cli(self, *argv: str) -> tuple[int, str, str]:
        """A command in another terminal of the same folder, without any settings."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CELERIAC_")}
        ran = subprocess.run(
            [*COMMAND, *argv],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ran.returncode, ran.stdout, ran.stderr

    def terminal(self, *argv: str) -> str:
        """The same in a real terminal of 80 columns; what it printed, escape sequences and all."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CELERIAC_")} | {"TERM": "xterm"}
        ran = subprocess.Popen(
            [*COMMAND, *argv], cwd=self.folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # Linux' way of saying that the other side has closed
            while chunk := os.read(ours, 65536):
                said += chunk
        os.close(ours)
        assert ran.wait(PATIENCE) == 0, said.decode()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())

    def processes(self) -> list[dict[str, Any]]:
        """The living processes, as `celeriac workers --json` says."""
        code, out, err = self.cli("workers", "--json")
        assert code == 0, err
        return json.loads(out)

    def stop(self, signum: signal.Signals = signal.SIGINT) -> int:
        """Stop it as a person would; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


Start = Callable[..., Dev]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `celeriac dev` in a folder with the module above; whatever still runs at the end is killed."""
    (tmp_path / "sums.py").write_text(MODULE)
    started: list[Dev] = []

    def begin(*arguments: str) -> Dev:
        dev = Dev(tmp_path, *arguments)
        started.append(dev)
        return dev

    yield begin
    for dev in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(dev.process.pid, signal.SIGKILL)
        dev.stop()


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_day_in_the_life(start: Start, tmp_path: Path) -> None:
    dev = start("--app", "sums", "--workers", "1")
    dev.until("Ready.", "broken, doubled, slowly")
    note = json.loads((tmp_path / ".celeriac" / "dev.json").read_text())

    code, out, err = dev.cli("start", "doubled", "-i", "[1, 2, 3]", "--wait", "--json", "--id", "d-1")
    assert (code, err) == (0, "")
    assert json.loads(out)["output"] == [2, 4, 6]
    code, out, _ = dev.cli("start", "broken", "--wait", "--json", "--timeout", "30s")
    assert code == Exit.FAILED
    assert json.loads(out)["failure"]["message"] == "on purpose"
    code, out, _ = dev.cli("history", "d-1")
    assert "GroupCompleted" in out
    assert dev.cli("doctor")[0] == 0

    again = subprocess.run([*COMMAND, "dev"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == Exit.EXISTS
    assert f"pid {dev.process.pid}" in again.stderr

    orchestrator, worker = sorted(dev.processes(), key=lambda process: process["kind"])
    assert dev.cli("start", "slowly", "-i", "4", "--id", "s-1")[0] == 0
    os.kill(orchestrator["pid"], signal.SIGKILL)
    os.kill(worker["pid"], signal.SIGKILL)
    dev.until("orchestrator-1", "ended (killed by SIGKILL); starting it again")
    dev.until("worker-1", "is back as pid")
    code, out, _ = dev.cli("wait", "s-1", "--timeout", "30s", "--json")
    assert code == 0
    assert json.loads(out)["output"] == 8

    shown = dev.terminal("start", "slowly", "-i", "1", "--id", "s-2"), dev.terminal("watch", "s-2")
    assert "▸ Running slowly s-2" in shown[1]
    assert "timer, due in" in shown[1]
    assert "✓ Completed" in shown[1]

    os.kill(note["redis_pid"], signal.SIGKILL)
    dev.until("redis", "starting it again on its data")
    code, out, err = dev.cli("start", "doubled", "-i", "[5]", "--wait", "--json", "--timeout", "30s")
    assert (code, json.loads(out)["output"]) == (0, [10]), err

    pids = [process["pid"] for process in dev.processes()]
    assert dev.stop() == 0
    assert all(_gone(pid) for pid in pids)
    assert not (tmp_path / ".celeriac" / "dev.json").exists()
    assert dev.cli("list", "--redis", note["url"])[0] == Exit.NO_REDIS

    dev = start("--app", "sums", "--workers", "0")
    dev.until("Ready.")
    assert dev.cli("status", "s-1")[0] == 0, "the data is kept between runs"
    assert dev.stop(signal.SIGTERM) == 0


def test_nothing_outlives_a_killed_dev(start: Start) -> None:
    dev = start("--app", "sums", "--workers", "1", "--pool", "threads")
    dev.until("Ready.")
    pids = [process["pid"] for process in dev.processes()]
    assert len(pids) == 2
    dev.process.kill()
    _await(lambda: all(_gone(pid) for pid in pids))
    dev = start("--app", "sums", "--workers", "0")
    dev.until("Ready.")
    assert dev.stop() == 0


def test_a_module_that_cannot_be_imported_stops_it(start: Start, tmp_path: Path) -> None:
    (tmp_path / "typo.py").write_text("import celeriac.activitys\n")
    dev = start("--app", "typo")
    assert dev.process.wait(PATIENCE) == Exit.USAGE
    dev.until("Error: module 'typo' cannot be imported")
    dev.until("typo.py", "line 1")
    dev.until("Error:", "does not start (exit 2)")
