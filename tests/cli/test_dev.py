"""`celeriac dev` in a folder of one's own, with real processes, from start to Ctrl-C and again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from spoken import COMMAND, PATIENCE, Spoken, clean_environment, gone, until

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
    await ctx.wait_for_external_event("go", timeout=timedelta(minutes=5), default=None)
    return await ctx.call_activity(double, x)

@orchestrator
async def broken(ctx: OrchestrationContext) -> None:
    raise ValueError("on purpose")
"""


class Dev(Spoken):
    """A running `celeriac dev`, and commands in other terminals of its folder."""

    def cli(self, *argv: str, below: Path | None = None) -> tuple[int, str, str]:
        """A command in another terminal of the same folder (or one below it), without any settings."""
        ran = subprocess.run(
            [*COMMAND, *argv], cwd=below or self.folder, env=clean_environment(),
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        return ran.returncode, ran.stdout, ran.stderr

    def terminal(self, *argv: str, at: str = "", then: tuple[str, ...] = ()) -> str:
        """The same in a real terminal of 80 columns; what it printed. Once `at` is there, `then` is run."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environ = clean_environment() | {"TERM": "xterm"}
        ran = subprocess.Popen(
            [*COMMAND, *argv], cwd=self.folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # Linux' way of saying that the other side has closed
            while chunk := os.read(ours, 65536):
                said += chunk
                if at and at.encode() in said:
                    at = ""
                    assert self.cli(*then)[0] == 0
        os.close(ours)
        assert ran.wait(PATIENCE) == 0, said.decode()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())

    def processes(self) -> list[dict[str, Any]]:
        """The living processes, as `celeriac workers --json` says."""
        code, out, err = self.cli("workers", "--json")
        assert code == 0, err
        return json.loads(out)


Start = Callable[..., Dev]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `celeriac dev` in a folder with the module above; whatever still runs at the end is killed."""
    (tmp_path / "sums.py").write_text(MODULE)
    started: list[Dev] = []

    def begin(*arguments: str) -> Dev:
        dev = Dev(tmp_path, "dev", *arguments)
        started.append(dev)
        return dev

    yield begin
    for dev in started:
        dev.put_down()


def test_a_day_in_the_life(start: Start, tmp_path: Path) -> None:
    dev = start("--app", "sums", "--workers", "1", "--no-reload")
    dev.until("Ready.", "broken, doubled, slowly")
    note = json.loads((tmp_path / ".celeriac" / "dev.json").read_text())

    code, out, err = dev.cli("start", "doubled", "-i", "[1, 2, 3]", "--wait", "--json", "--id", "d-1")
    assert (code, err) == (0, "")
    assert json.loads(out)["output"] == [2, 4, 6]
    code, out, _ = dev.cli("start", "broken", "--wait", "--json", "--timeout", "30s")
    assert code == Exit.FAILED
    assert json.loads(out)["failure"]["message"] == "on purpose"
    _refused_beside_it(dev, tmp_path)
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
    assert dev.cli("raise-event", "s-1", "go")[0] == 0
    code, out, _ = dev.cli("wait", "s-1", "--timeout", "30s", "--json")
    assert code == 0
    assert json.loads(out)["output"] == 8

    assert "s-2" in dev.terminal("start", "slowly", "-i", "1", "--id", "s-2")
    shown = dev.terminal("watch", "s-2", at="timer, due in", then=("raise-event", "s-2", "go"))
    assert "▸ Running slowly s-2" in shown
    assert "✓ Completed" in shown

    os.kill(note["redis_pid"], signal.SIGKILL)
    dev.until("redis", "starting it again on its data")
    code, out, err = dev.cli("start", "doubled", "-i", "[5]", "--wait", "--json", "--timeout", "30s")
    assert (code, json.loads(out)["output"]) == (0, [10]), err

    pids = [process["pid"] for process in dev.processes()]
    assert dev.stop() == 0
    assert all(gone(pid) for pid in pids)
    assert not (tmp_path / ".celeriac" / "dev.json").exists()
    assert dev.cli("list", "--redis", note["redis_url"])[0] == Exit.NO_REDIS

    dev = start("--app", "sums", "--workers", "0")
    dev.until("Ready.")
    assert dev.cli("status", "s-1")[0] == 0, "the data is kept between runs"
    assert dev.stop(signal.SIGTERM) == 0


def _refused_beside_it(dev: Dev, folder: Path) -> None:
    """In the other terminal, without settings: the modules are found, so a start is checked against them."""
    below = folder / "deep" / "er"
    below.mkdir(parents=True)
    for place in (folder, below):
        code, out, err = dev.cli("start", "doubled", "-i", '["x"]', "--id", "wrong", below=place)
        assert (code, out) == (Exit.USAGE, ""), err
        assert "the input does not fit orchestrator 'doubled'" in err
        code, _, err = dev.cli("start", "double", below=place)
        assert code == Exit.UNKNOWN_NAME
        assert "did you mean 'doubled'?" in err
    assert dev.cli("status", "wrong")[0] == Exit.NOT_FOUND
    module = folder / "sums.py"
    module.write_text("import celeriac.activitys\n")  # as it is while somebody writes
    try:
        assert dev.cli("status", "d-1", below=below)[0] == 0
        code, out, err = dev.cli("start", "doubled", "-i", "[1]", "--wait", "--json", below=below)
    finally:
        module.write_text(MODULE)
    assert (code, json.loads(out)["output"]) == (0, [2])
    assert "Warning: the input is not checked here" in err
    assert "celeriac.activitys" in err


def test_nothing_outlives_a_killed_dev(start: Start) -> None:
    dev = start("--app", "sums", "--workers", "1", "--pool", "threads")
    dev.until("Ready.")
    pids = [process["pid"] for process in dev.processes()]
    assert len(pids) == 2
    dev.process.kill()
    until(lambda: all(gone(pid) for pid in pids))
    dev = start("--app", "sums", "--workers", "0")
    dev.until("Ready.")
    assert dev.stop() == 0


def test_a_module_that_cannot_be_imported_stops_it(start: Start, tmp_path: Path) -> None:
    (tmp_path / "typo.py").write_text("import celeriac.activitys\n")
    dev = start("--app", "typo")
    assert dev.process.wait(PATIENCE) == Exit.USAGE
    dev.end()
    assert dev.text.count("module 'typo' cannot be imported") == 1, "said once, not by every process"
    assert 'typo.py", line 1' in dev.text


def test_changed_code_is_taken_up(start: Start, tmp_path: Path) -> None:
    dev = start("--app", "sums", "--workers", "1")
    dev.until("Ready.", "broken, doubled, slowly")
    before = {process["pid"] for process in dev.processes()}
    module = tmp_path / "sums.py"
    module.write_text(MODULE.replace("return 2 * x", "return 2 x"))
    dev.until("code", "sums.py changed; the old code goes on")
    dev.until("code", "SyntaxError")
    code, out, err = dev.cli("start", "doubled", "-i", "[1]", "--wait", "--json")
    assert (code, json.loads(out)["output"]) == (0, [2]), err
    assert {process["pid"] for process in dev.processes()} == before

    module.write_text(MODULE.replace("return 2 * x", "return 3 * x  # thrice"))
    dev.until("code", "sums.py changed: restarting")
    dev.until("orchestrator-1", "is back as pid")
    dev.until("worker-1", "is back as pid")
    assert all(gone(pid) for pid in before)
    code, out, err = dev.cli("start", "doubled", "-i", "[1]", "--wait", "--json", "--timeout", "60s")
    assert (code, json.loads(out)["output"]) == (0, [3]), err
    assert dev.stop() == 0


def test_the_example_of_the_ready_text_works(start: Start, tmp_path: Path) -> None:
    """It backs up the folder that holds the Redis it runs on; and once that has stopped, it is said."""
    dev = start("--workers", "1")
    dev.until("Ready.", "backup_site")
    dev.until("celeriac start backup_site")
    words = shlex.split(next(line for line in dev.lines if "celeriac start" in line))[1:]
    code, out, err = dev.cli(*words, "--json")
    assert code == 0, err
    result = json.loads(out)["output"]
    files = json.loads((tmp_path / result["manifest"]).read_text())["files"]
    assert [file["path"] for file in files] == ["sums.py"]
    assert dev.stop() == 0
    code, _, err = dev.cli("list")
    assert code == Exit.NO_REDIS
    assert "The `celeriac dev` of this folder is not running" in err
