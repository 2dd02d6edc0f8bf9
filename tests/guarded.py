"""A Redis on a port with users, TLS or a password, and real processes that log in to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis
from servers import BINARIES
from sites import Site

from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.store import Store

Serve = Callable[..., "Guarded"]
HERE = Path(__file__).parent / "security"  # where the workflows are


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Guarded:
    """A Redis of one test on a port of this machine."""

    def __init__(self, binary: str, folder: Path, options: Sequence[str], **login: Any) -> None:
        self.port, self.log = free_port(), folder / "redis-server.log"
        port = ["--port", str(self.port)] if "--tls-port" not in options else ["--port", "0"]
        words = [str(self.port) if word == "PORT" else word for word in options]
        self.process = subprocess.Popen(
            [BINARIES[binary], *port, "--dir", str(folder), "--save", "", "--appendonly", "yes",
             "--logfile", str(self.log), *words],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.client: Any = redis.Redis(port=self.port, **login)
        end = time.monotonic() + 20
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                said = self.log.read_text() if self.log.exists() else ""
                assert time.monotonic() < end, said
                assert self.process.poll() is None, said
                time.sleep(0.02)

    def stop(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class GuardedSite(Site):
    """Processes on a Redis that asks for a login; `urls` by what a process is."""

    def __init__(self, folder: Path, urls: dict[str, str], *apps: str, hub: str = "celeriac") -> None:
        super().__init__(urls["client"], folder, *(apps or ("flows_of_security",)))
        self.store.close()
        self.urls = urls
        self.settings = replace(self.settings, hub=hub, queue="celeriac")
        self.store = Store.connect(replace(self.settings, redis_url=urls.get("admin", urls["client"])))
        self.client = Client(settings=self.settings)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        url = self.urls.get(command[0], self.urls["client"])
        more = {"CELERIAC_REDIS_URL": url, "PYTHONPATH": str(HERE), **environment}
        return super().start(*command, **more)

    def cli(self, *command: str, who: str = "client", code: int = 0) -> str:
        """What a command of the command line printed, as this user."""
        variables = self.settings.environment() | {
            "CELERIAC_REDIS_URL": self.urls[who], "PYTHONPATH": str(HERE), "FLOWS_NOTES": str(self.folder),
        }  # fmt: skip
        process = self.start(*command, **variables)
        assert process.wait(60) == code, self.logs()
        return (self.folder / f"{command[0]}-{len(self.running) - 1}.log").read_text()

    def logs(self) -> str:
        refused = self.store.client.acl_log() if "admin" in self.urls else []
        return f"{super().logs()}\n--- refused by Redis\n" + "\n".join(map(str, refused))

    def close(self) -> None:
        self.client.close()
        super().close()


def all_text(folder: Path) -> str:
    """Every log that the processes of a test have written."""
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.log")))


def command_lines() -> dict[int, str]:
    """The command line of every process of this machine, as `ps` shows it to everybody."""
    found: dict[int, str] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(name)] = Path(f"/proc/{name}/cmdline").read_text(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
    return found
