"""A process of `celeriac` as a person runs it, and every line that it prints. For tests/cli and tests/e2e."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

COMMAND = [sys.executable, "-m", "celeriac.cli.main"]
PATIENCE = 60.0  # seconds


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of ours, which must not leak in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}


class Spoken:
    """A running command in a session of its own. Its output is a pipe, read as it comes."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, env=clean_environment() | variables, text=True,
            start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
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
        """Everything it has printed so far."""
        return "\n".join(self.lines)

    def until(self, *words: str, seconds: float = PATIENCE) -> None:
        """Wait until it has printed a line with all of these words."""

        def there() -> bool:
            return any(all(word in line for word in words) for line in self.lines)

        with self._news:
            assert self._news.wait_for(there, seconds), f"no line with {words} in\n{self.text}"

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; its exit code."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def stop(self, signum: signal.Signals = signal.SIGINT) -> int:
        """Stop it as a person would; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.end()

    def put_down(self) -> None:
        """At the end of a test: kill what is left of it and of its children in the same session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.end()


def gone(pid: int) -> bool:
    """Whether this process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that nothing announces."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
