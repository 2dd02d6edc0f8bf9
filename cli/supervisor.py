"""Runs the processes of `celeriac dev` and `celeriac demo`: starts them, shows what they say, replaces the
dead, and stops them all by process group.

Each child is the leader of its own group, so that a Ctrl-C in the terminal reaches only us and we decide the
order, and so that what a killed child leaves behind (pool processes) goes with it. On Linux children end
when we do, whatever kills us.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from celeriac.celery_app.embedded import tethered

STOP_SECONDS: Final = (
    15.0  # then SIGKILL: an activity that runs longer is repeated elsewhere, nothing is lost
)
QUICK_SECONDS: Final = 5.0  # a child that ended sooner than this did not come up
MOST_QUICK_DEATHS: Final = 3
FIRST_PAUSE: Final = 0.5

Notice = Callable[[str, str], None]
"""Told of (name of the child, what happened or what it printed)."""


@dataclass(slots=True)
class Child:
    """One supervised process and what is known about its past."""

    name: str
    arguments: Sequence[str]  # of `celeriac`
    process: subprocess.Popen[bytes]
    started: float
    quick_deaths: int = 0
    restarts: int = 0
    renewed_by: float = 0.0  # asked to end for a fresh one; killed when it still runs at this time
    pending: bytes = b""  # the beginning of a line
    last_lines: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The process id of the current incarnation."""
        return self.process.pid


class ChildFailedError(Exception):
    """A child does not come up, however often it is started."""

    def __init__(self, child: Child, code: int) -> None:
        self.child, self.code = child, code
        self.headline = f"{child.name} does not start ({describe_exit(code)})"
        said = "\n".join(f"  {line}" for line in child.last_lines[-12:]) or "  (it said nothing)"
        super().__init__(f"{self.headline}:\n{said}")


class Supervisor:
    """A set of children. `add` them, then `serve` in this thread, or `start` a thread that serves."""

    def __init__(
        self,
        environment: Mapping[str, str],
        on_line: Notice,
        on_notice: Notice,
        each_turn: Callable[[], None] = lambda: None,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self._environment = dict(environment)
        self._on_line, self._on_notice, self._each_turn = on_line, on_notice, each_turn
        self._stop_seconds = stop_seconds
        self._thread: threading.Thread | None = None
        self._hurry = self._stopped = False
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._stopping = threading.Event()
        self._due: dict[str, float] = {}  # children to start again, and when
        self.children: dict[str, Child] = {}
        self.failure: ChildFailedError | None = None

    def add(self, name: str, arguments: Sequence[str]) -> Child:
        """Start a child: `celeriac` with these arguments."""
        child = Child(name, arguments, self._spawn(arguments), time.monotonic())
        self.children[name] = child
        self._watch(child)
        return child

    def serve(self) -> None:
        """Pass on output and replace dead children, until `stop` or a child that does not come up."""
        while not self._stopping.is_set():
            self._turn()
            self._each_turn()
            for child in list(self.children.values()):
                if child.name not in self._due and child.process.poll() is not None:
                    self._died(child)
                elif child.renewed_by and time.monotonic() > child.renewed_by:
                    self._on_notice(child.name, "did not stop in time, killed")
                    child.renewed_by = float("inf")
                    kill_group(child.pid)
            self._start_due()
            if self.failure is not None:
                raise self.failure

    def start(self) -> None:
        """Serve in a thread; a child that does not come up is then found in `failure`."""

        def serve() -> None:
            with contextlib.suppress(ChildFailedError):
                self.serve()

        self._thread = threading.Thread(target=serve, name="supervisor", daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """Replace every child in order: SIGTERM now, SIGKILL if it takes too long, then a fresh one.

        To be called from `each_turn`.
        """
        for child in self.children.values():
            if child.process.poll() is None and not child.renewed_by:
                child.renewed_by = time.monotonic() + self._stop_seconds
                child.process.send_signal(signal.SIGTERM)

    def hurry(self) -> None:
        """Cut a `stop` that waits short: what still runs is killed now."""
        self._hurry = True
        self.interrupt()

    def interrupt(self) -> None:
        """Make `serve` return; callable from any thread and from a signal handler."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def stop(self) -> None:
        """End every child: SIGTERM to each, then SIGKILL to the groups of those that take too long.

        Harmless when they have been stopped already.
        """
        if self._stopped:
            return
        self._stopped = True
        self.interrupt()
        if self._thread is not None:
            self._thread.join()
        alive = [child for child in self.children.values() if child.process.poll() is None]
        for child in alive:
            child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_seconds
        while any(child.process.poll() is None for child in alive):
            if self._hurry or time.monotonic() > deadline:
                break
            self._turn()  # also empties their pipes, so that none blocks on its last words
        for child in self.children.values():
            if child.process.poll() is None:
                self._on_notice(child.name, "did not stop in time, killed")
            kill_group(child.pid)
            child.process.wait()
            self._read_rest(child)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # --- one turn of the loop -----------------------------------------------------------------

    def _turn(self) -> None:
        for key, _ in self._selector.select(timeout=0.2):
            if key.data is None:
                os.read(self._wake_read, 100)
            else:
                self._read(key.data)

    def _read_rest(self, child: Child) -> None:
        """The last words of a child that is dead, and of its group."""
        stdout = child.process.stdout
        while stdout is not None and not stdout.closed and self._read(child):
            pass
        self._unwatch(child)

    def _read(self, child: Child) -> bool:
        """Pass on what there is to read; False when there is nothing (more)."""
        assert child.process.stdout is not None
        try:
            data = os.read(child.process.stdout.fileno(), 65536)
        except BlockingIOError:
            return False
        if not data:
            self._unwatch(child)
            return False
        *lines, child.pending = (child.pending + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            child.last_lines = [*child.last_lines[-19:], text]
            self._on_line(child.name, text)
        return True

    def _died(self, child: Child) -> None:
        """Note the death, clean up after it and plan the next start, or give up."""
        kill_group(child.pid)
        self._read_rest(child)
        code = child.process.returncode
        if child.renewed_by:
            child.renewed_by, child.quick_deaths = 0.0, 0
            self._due[child.name] = time.monotonic()
            return
        quick = time.monotonic() - child.started < QUICK_SECONDS
        child.quick_deaths = child.quick_deaths + 1 if quick and code >= 0 else 0
        # Exit 2 is our own refusal (a module that cannot be imported, a bad option): trying again is idle.
        if child.quick_deaths >= MOST_QUICK_DEATHS or (quick and code == 2):
            self.failure = ChildFailedError(child, code)
            return
        pause = FIRST_PAUSE * 2 ** max(0, child.quick_deaths - 1) if child.quick_deaths else 0.0
        self._due[child.name] = time.monotonic() + pause
        self._on_notice(child.name, f"pid {child.pid} ended ({describe_exit(code)}); starting it again")

    def _start_due(self) -> None:
        now = time.monotonic()
        for name, due in list(self._due.items()):
            if due <= now:
                del self._due[name]
                child = self.children[name]
                child.process, child.started = self._spawn(child.arguments), now
                child.restarts += 1
                child.pending, child.last_lines = b"", []
                self._watch(child)
                self._on_notice(name, f"is back as pid {child.pid}")

    # --- processes ----------------------------------------------------------------------------

    def _spawn(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            tethered([sys.executable, "-m", "celeriac.cli.main", *arguments]),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def _watch(self, child: Child) -> None:
        assert child.process.stdout is not None
        self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _unwatch(self, child: Child) -> None:
        stdout = child.process.stdout
        if stdout is not None and not stdout.closed:
            with contextlib.suppress(KeyError):
                self._selector.unregister(stdout)
            stdout.close()


def kill_group(leader: int) -> None:
    """SIGKILL to whatever is left of the group that `leader` led."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def describe_exit(code: int) -> str:
    """A return code in words."""
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit {code}"
