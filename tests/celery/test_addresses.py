"""TLS and Sentinel: broker, result backend, store, client and commands, all by one URL."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from celeriac.celery_app import embedded
from celeriac.celery_app.app import create_app
from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store
from celeriac.celery_app.store.server import info
from celeriac.orchestrations.errors import InvalidArgumentError, RedisUnavailableError

FLOWS = """
from celeriac.activities import activity
from celeriac.celery_app import app
from celeriac.orchestrations import orchestrator

@activity
def double(n: int) -> int:
    return 2 * n

@orchestrator
async def flow(ctx, n):
    for _ in range(3):
        n = await ctx.call_activity(double, n)
    return n

@app.task(name="plain.add", ignore_result=False)
def add(a, b):
    return a + b
"""
PASSWORD = "s3cret"


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition: Callable[[], Any], seconds: float = 40, what: str = "") -> Any:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(redis.ConnectionError, redis.TimeoutError, RedisUnavailableError):
            if found := condition():
                return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


class Site:
    """An orchestrator and a worker that know Redis by one URL."""

    def __init__(self, url: str, folder: Path, transport: str = "celeriac") -> None:
        name = f"u{secrets.token_hex(3)}"
        self.settings = Settings(
            redis_url=url,
            hub=name,
            queue=f"q{name}",
            apps=("flows",),
            lease=3.0,
            beat=0.5,
            transport=transport,
        )
        (folder / "flows.py").write_text(FLOWS)
        self.folder = folder
        self.processes = [self.start("orchestrator"), self.start("worker", "--pool", "threads")]
        self.store = Store.connect(self.settings)
        self.client = Client(settings=self.settings, store=self.store)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{command[0]}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "celeriac.cli.main", *command], cwd=self.folder,
                env=os.environ | self.settings.environment(), stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def begin(self, n: int) -> str:
        """Start an instance; until somebody serves it, and a master is there, this is refused."""
        return until(lambda: self._start(n), what=f"a start\n{self.logs()}")

    def _start(self, n: int) -> str | None:
        known = self.store.client.hkeys(self.store.keys.path("served"))
        return self.client.start("flow", n) if b"o flow" in known else None

    def result(self, instance: str) -> Any:
        state = until(lambda: (s := self.client.get(instance)).status.is_final and s, what=self.logs())
        assert state.status == "Completed", state
        return state.output

    def command(self, *words: str) -> str:
        """What a command prints, found by the environment alone."""
        done = subprocess.run(
            [sys.executable, "-m", "celeriac.cli.main", *words], cwd=self.folder, timeout=60,
            env=os.environ | self.settings.environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def logs(self) -> str:
        return "\n".join(f"--- {p.name}\n{p.read_text()[-2500:]}" for p in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(40)
        self.store.close()


# --- TLS ------------------------------------------------------------------------------------------


DOOR = """
import asyncio, ssl, sys

async def main(port, target, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def pump(source, sink):
        try:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        except OSError:
            return
        finally:
            sink.close()

    async def serve(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", int(target))
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", int(port), ssl=context)
    await server.serve_forever()

asyncio.run(main(*sys.argv[1:]))
"""


class TlsDoor:
    """A process that speaks TLS and passes on to a Redis, whatever that one was built with."""

    def __init__(self, inner: str, folder: Path) -> None:
        parts, port = urlsplit(inner), free_port()
        self.address = f"rediss://:{parts.password or ''}@localhost:{port}/0"
        self.certificate, key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-keyout", str(key), "-out", str(self.certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        words = [str(port), str(parts.port), str(self.certificate), str(key)]
        with (folder / "door.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", DOOR, *words], stdout=log, stderr=subprocess.STDOUT
            )
        until(lambda: self._is_open(port), what="the door")

    def _is_open(self, port: int) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[TlsDoor]:
    """A Redis behind TLS, with a certificate made here."""
    (tmp_path / "redis").mkdir()
    server = embedded.start(tmp_path / "redis", port=free_port())
    door = TlsDoor(server.url, tmp_path)
    try:
        yield door
    finally:
        door.close()
        server.stop()


def test_everything_goes_through_tls(door: TlsDoor, tmp_path: Path) -> None:
    """With the certificate checked, and the host's name in it."""
    url = f"{door.address}?ssl_ca_certs={door.certificate}&ssl_check_hostname=true"
    site = Site(url, tmp_path)
    try:
        assert site.result(site.begin(5)) == 40
        assert "flow" in site.command("list")
        plain = Celery(site)
        assert plain.add(1, 2) == 3
        plain.close()
    finally:
        site.close()


def test_a_certificate_nobody_vouches_for_is_refused(door: TlsDoor) -> None:
    settings = Settings(redis_url=door.address)
    with Store.connect(settings) as store, pytest.raises(RedisUnavailableError, match=r"(?i)certificate"):
        store.run(info())
    with pytest.raises(InvalidArgumentError, match="unchecked certificate"):
        Settings(redis_url=f"{door.address}?ssl_cert_reqs=none")


class Celery:
    """A user's own Celery tasks, through the same broker and result backend."""

    def __init__(self, site: Site) -> None:
        self.settings, self.app = site.settings, create_app(site.settings, load=False)

    def add(self, a: int, b: int) -> int:
        """The result as Redis has it: Celery's own wait is told by a subscription, and what is published
        while that moves to another master it never hears.
        """
        result = self.app.send_task("plain.add", (a, b), queue=self.settings.queue)
        until(result.ready, what="the result of a plain task")
        return result.get()

    def close(self) -> None:
        self.app.close()


def test_a_stock_broker_from_end_to_end(redis_server: Any, tmp_path: Path) -> None:
    """Degraded, but right: kombu's own transport carries activities and plain tasks."""
    site = Site(redis_server.url, tmp_path, "stock")
    try:
        assert site.result(site.begin(5)) == 40
        plain = Celery(site)
        assert plain.add(1, 2) == 3
        plain.close()
        assert not list(site.store.client.scan_iter(f"{site.store.keys.flight('')}*"))
    finally:
        site.close()


# --- Sentinel -------------------------------------------------------------------------------------


class Watched:
    """A master, its replica and one sentinel, whose word is enough."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.binary, self.folder = binary, folder
        self.ports = [free_port() for _ in range(3)]
        master, replica, sentinel = self.ports
        login = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)
        self.master = self._start("master", "--port", str(master), *login)
        self.replica = self._start(
            "replica", "--port", str(replica), *login, "--replicaof", "127.0.0.1", str(master),
        )  # fmt: skip
        until(lambda: self.of(replica).info()["master_link_status"] == "up", what="the replica")
        (folder / "sentinel.conf").write_text(
            f"port {sentinel}\nsentinel monitor theirs 127.0.0.1 {master} 1\n"
            f"sentinel auth-pass theirs {PASSWORD}\nsentinel down-after-milliseconds theirs 600\n"
            "sentinel failover-timeout theirs 3000\n"
        )
        self.sentinel = self._start("sentinel", str(folder / "sentinel.conf"), "--sentinel")
        asked = redis.Redis(port=sentinel)
        until(lambda: asked.execute_command("SENTINEL", "REPLICAS", "theirs"), what="the sentinel to know")
        asked.close()
        nowhere = free_port()  # a sentinel that is down: the next one is asked
        self.url = f"sentinel://:{PASSWORD}@127.0.0.1:{nowhere};127.0.0.1:{sentinel}/2?master=theirs"

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        where = self.folder / name
        where.mkdir()
        command = [self.binary, *arguments, "--dir", str(where), "--logfile", str(where / "log")]
        if name != "sentinel":
            command += ["--save", "", "--appendonly", "yes"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def of(self, port: int) -> Any:
        return redis.Redis(port=port, password=PASSWORD, db=2)

    def close(self) -> None:
        for process in (self.sentinel, self.replica, self.master):
            process.kill()
            process.wait()


def test_a_failover_by_sentinel(redis_server: Any, tmp_path: Path) -> None:
    """Everything finds the master through the sentinels, and its successor when it dies."""
    binary = os.readlink(f"/proc/{redis_server.pid}/exe")
    watched = Watched(binary, tmp_path)
    site = Site(watched.url, tmp_path)
    try:
        assert site.result(site.begin(1)) == 8
        assert "flow" in site.command("list")
        plain = Celery(site)
        assert plain.add(1, 2) == 3
        master = watched.of(watched.ports[0])
        assert master.dbsize() > 0
        assert master.wait(1, 5000) == 1
        watched.master.kill()
        watched.master.wait()
        successor = watched.of(watched.ports[1])
        until(lambda: successor.info()["role"] == "master", what="the failover")
        assert site.result(site.begin(2)) == 16
        assert len(site.command("list", "--json").split('"instanceId"')) == 3
        assert plain.add(3, 4) == 7
        plain.close()
        assert all(process.poll() is None for process in site.processes), site.logs()
    finally:
        site.close()
        watched.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sentinel://a:1;b:2/0", "which master"),
        ("sentinel://a:1;sentinel://b:2/0?master=m", "scheme once"),
        ("sentinel://a:x/0?master=m", "not a Redis URL"),
        ("sentinel://a:1/zero?master=m", "must be a number"),
        ("sentinel://:1/0?master=m", "names no host"),
        ("sentinel://a:1/0?master=m&ssl=1", "no option 'ssl'"),
        ("rediss+sentinel://a:1/0?master=m", "TLS to sentinels, .* is not supported"),
        ("sentinels://a:1/0?master=m", "TLS to sentinels, .* is not supported"),
    ],
)
def test_an_address_of_sentinels_that_makes_no_sense(url: str, problem: str) -> None:
    with pytest.raises(InvalidArgumentError, match=problem):
        Settings(redis_url=url)


def test_passwords_of_sentinels_and_master_are_masked() -> None:
    settings = Settings(redis_url="sentinel://u:abc@a:1;b:2/0?master=m&sentinel_password=def")
    assert settings.shown_url == "sentinel://u:***@a:1;b:2/0?master=m&sentinel_password=***"
    assert settings.celery_broker_url == "sentinel://u:abc@a:1/0;sentinel://u:abc@b:2/0"
