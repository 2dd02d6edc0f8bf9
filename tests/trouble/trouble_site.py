"""A Redis that tests may kill, a proxy before it, and the real processes that live through it."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import redis
import sites
from proxy import Proxy

from celeriac.celery_app import embedded
from celeriac.celery_app.client.sync import Client
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
        self.moments: dict[str, float] = {}  # when, by the monotonic clock
        self.stopping = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        n = 0
        while not self.stopping.wait(self._pause):
            instance, n = f"{self._prefix}{n}", n + 1
            try:
                self._client.start("steps", 3, instance_id=instance, on_conflict="use_existing")
                self.moments[instance] = time.monotonic()
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


class Condemned(threading.Thread):
    """Looks who is taken for dead, over a way of its own to Redis."""

    def __init__(self, client: Any, beats: str) -> None:
        super().__init__(daemon=True)
        self._client, self._beats = client, beats
        self._stopping = threading.Event()
        self._seen: set[str] = set()

    def run(self) -> None:
        while not self._stopping.wait(0.01):
            self._seen |= {name.decode() for name in self._client.zrangebyscore(self._beats, 0, 0)}

    def stop(self) -> set[str]:
        self._stopping.set()
        self.join(10)
        return self._seen


class Site(sites.Site):
    """A hub behind the proxy, and the processes of one test on it: none of them may give up and leave."""

    def __init__(self, proxy: Proxy, folder: Path, **settings: Any) -> None:
        super().__init__(proxy.url, folder, "trouble_flows", **settings)
        self.proxy, self.effects = proxy, folder / "effects"
        self.queue = f"{self.settings.hub}-orders"
        self.effects.touch()

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        ours = {"PYTHONPATH": str(HERE), "TROUBLE_EFFECTS": str(self.effects), "TROUBLE_QUEUE": self.queue}
        return super().start(*command, **ours, **environment)

    def up(self, *pools: str, orchestrators: int = 2) -> None:
        """Orchestrators, and a worker of each pool; returns when all are known."""
        for _ in range(orchestrators):
            self.start("orchestrator")
        for pool in pools:
            self.start("worker", "--pool", pool, "--concurrency", "4")
        self.until(lambda: self.alive("o") >= orchestrators and self.alive("w") >= len(pools))

    def alive(self, kind: str) -> int:
        known = self.store.client.hkeys(self.store.keys.procs)
        return sum(name.startswith(kind.encode()) for name in known)

    def needed(self, process: subprocess.Popen[bytes] | None) -> list[subprocess.Popen[bytes]]:
        return self.running

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
        assert all(process.poll() is None for process in self.running), self.logs()

    def log(self, kind: str) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob(f"{kind}-*.log")))
