"""A hub with real processes on it: `celeriac orchestrator` and Celery workers."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celeriac.celery_app.client.sync import Client, OrchestrationState
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store

HERE = Path(__file__).parent / "engine"  # where the workflows are


class Site:
    """A hub and the processes of this test on it."""

    def __init__(self, url: str, folder: Path, *apps: str, **settings: Any) -> None:
        hub = f"p{secrets.token_hex(4)}"
        self.folder = folder
        self.settings = Settings(
            redis_url=url, hub=hub, queue=f"{hub}-queue", apps=apps or ("flows_of_processes",), **settings
        )
        self.store = Store.connect(self.settings)
        self.client = Client(settings=self.settings, store=self.store)
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """A `celeriac` process; its output goes to a file of the test's folder."""
        known = self.settings.environment() | {
            "PYTHONPATH": str(HERE), "FLOWS_NOTES": str(self.folder), **environment,
        }  # fmt: skip
        log = (self.folder / f"{command[0]}-{len(self.running)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "celeriac.cli.main", *command], env=os.environ | known, cwd=self.folder,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        log.close()
        self.running.append(process)
        return process

    def orchestrator(self, **environment: str) -> subprocess.Popen[bytes]:
        return self._joined("o", lambda: self.start("orchestrator", **environment))

    def worker(self, pool: str = "threads") -> subprocess.Popen[bytes]:
        return self._joined("w", lambda: self.start("worker", "--pool", pool, "--concurrency", "4"))

    def _joined(self, kind: str, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Start a process and wait until it is known."""

        def known() -> set[bytes]:
            return {p for p in self.store.client.hkeys(self.store.keys.procs) if p.startswith(kind.encode())}

        before = known()
        process = start()
        self.until(lambda: known() - before, process)
        return process

    def until(
        self,
        condition: Callable[[], Any],
        process: subprocess.Popen[bytes] | None = None,
        timeout: float = 60,
    ) -> Any:
        """What the condition gives, once it is true; meanwhile no process that is needed may end."""
        end = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < end, f"not within {timeout} s\n{self.logs()}"
            assert all(one.poll() is None for one in self.needed(process)), self.logs()
            time.sleep(0.02)
        return found

    def needed(self, process: subprocess.Popen[bytes] | None) -> list[subprocess.Popen[bytes]]:
        """The processes that must not end while a condition is waited for."""
        return [process] if process else []

    def wait(self, instance: str, timeout: float = 60) -> OrchestrationState:
        try:
            return self.client.wait(instance, timeout=timeout)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from error

    def logs(self) -> str:
        return "\n".join(f"--- {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.terminate()
        for process in self.running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.store.close()
