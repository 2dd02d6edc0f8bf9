"""A Redis that tests may kill, a proxy before it, and the real processes that live through it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from proxy import Proxy

from celeriac.celery_app import embedded
from celeriac.celery_app.client.sync import Client, OrchestrationState
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store
from celeriac.orchestrations.errors import RedisUnavailableError

HERE = Path(__file__).parent


class RedisServer:
    """A redis-server on a port of 127.0.0.1 with its data in a folder; killed and started at will."""

    def __init__(self, folder: Path, fsync: str = "always") -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.fsync = folder, fsync
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def start(self) -> None:
        self._process = subprocess.Popen(
            [embedded.find_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder,
             "--save", "", "--appendonly", "yes", "--appendfsync", self.fsync,
             "--logfile", self.folder / "redis.log"],
        )  # fmt: skip
        end = time.monotonic() + 30
        while not embedded.ping(f"redis://127.0.0.1:{self.port}"):
            assert self._process.poll() is None, (self.folder / "redis.log").read_text()
            assert time.monotonic() < end, "Redis does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def aof(self) -> Path:
        """The file that every write goes to."""
        parts = sorted(self.folder.glob("appendonlydir/*.incr.aof"))
        return parts[-1] if parts else self.folder / "appendonly.aof"


class Load(threading.Thread):
    """Starts instances, one after another, and remembers which start was acknowledged."""

    def __init__(self, client: Client, prefix: str, pause: float = 0.02) -> None:
        super().__init__(daemon=True)
        self._client, self._prefix, self._pause = client, prefix, pause
        self.acknowledged: list[str] = []
        self.stopping = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        n = 0
        while not self.stopping.wait(self._pause):
            instance, n = f"{self._prefix}{n}", n + 1
            try:
                self._client.start("steps", 3, instance_id=instance, on_conflict="use_existing")
                self.acknowledged.append(instance)
            except RedisUnavailableError:
                continue
            except BaseException as error:  # noqa: BLE001  shown in the test's own thread
                self.error = error
                return

    def stop(self) -> list[str]:
        self.stopping.set()
        self.join(60)
        assert self.error is None, self.error
        return self.acknowledged


class Site:
    """A hub behind the proxy, and the processes of one test on it."""

    def __init__(self, proxy: Proxy, folder: Path, **settings: Any) -> None:
        hub = f"x{secrets.token_hex(4)}"
        self.proxy, self.folder, self.effects = proxy, folder, folder / "effects"
        self.queue = f"{hub}-orders"
        self.settings = Settings(
            redis_url=proxy.url, hub=hub, queue=f"{hub}-queue", apps=("trouble_flows",), **settings
        )
        self.store = Store.connect(self.settings)
        self.client = Client(settings=self.settings, store=self.store)
        self.running: list[subprocess.Popen[bytes]] = []
        self.effects.touch()

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        known = self.settings.environment() | {
            "PYTHONPATH": str(HERE), "TROUBLE_EFFECTS": str(self.effects), "TROUBLE_QUEUE": self.queue,
        }  # fmt: skip
        with (self.folder / f"{command[0]}-{len(self.running)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celeriac.cli.main", *command], env=os.environ | known,
                cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.running.append(process)
        return process

    def up(self, *pools: str, orchestrators: int = 2) -> None:
        """Orchestrators, and a worker of each pool; returns when all are known."""
        for _ in range(orchestrators):
            self.start("orchestrator")
        for pool in pools:
            self.start("worker", "--pool", pool, "--concurrency", "4")
        self.until(lambda: self.alive("o") >= orchestrators and self.alive("w") >= len(pools), 60)

    def alive(self, kind: str) -> int:
        known = self.store.client.hkeys(self.store.keys.procs)
        return sum(name.startswith(kind.encode()) for name in known)

    def until(self, condition: Callable[[], Any], timeout: float = 60) -> Any:
        end = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < end, f"not within {timeout} s\n{self.logs()}"
            self.all_are_there()
            time.sleep(0.02)
        return found

    def wait(self, instance: str, timeout: float = 60) -> OrchestrationState:
        try:
            return self.client.wait(instance, timeout=timeout)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from error

    def completed(self, ids: list[str]) -> None:
        """Each of these instances of `steps` has ended, with the output it must have."""
        for instance in ids:
            state = self.wait(instance)
            assert (state.status, state.output) == ("Completed", [f"{instance}.{k}" for k in range(3)])

    def counts(self) -> Counter[str]:
        """How often each activity ran."""
        return Counter(self.effects.read_text().splitlines())

    def all_are_there(self) -> None:
        """No process has given up and left."""
        for process in self.running:
            assert process.poll() is None, self.logs()

    def log(self, kind: str) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob(f"{kind}-*.log")))

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
