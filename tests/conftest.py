"""Fixtures for all tests: real Redis servers, started once a session on unix sockets."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from servers import BINARIES

from celeriac.celery_app.store import Store

pytest_plugins = ["lanes"]  # how `make test` is shared out

# A shell's background job begins with SIGINT ignored, and so would all that a test stops with Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

STATUSES = ("Pending", "Running", "Suspended", "Completed", "Failed", "Terminated", "Cancelled")
ENDED = STATUSES[3:]


@dataclass(frozen=True)
class Server:
    """A running Redis of the tests."""

    name: str
    url: str
    pid: int


def start_server(name: str, directory: Path) -> tuple[Server, subprocess.Popen[bytes]]:
    """Start a Redis of that name with its files in `directory`; returns when it answers."""
    socket = directory / "redis.sock"
    process = subprocess.Popen(
        [BINARIES[name], "--port", "0", "--unixsocket", str(socket), "--dir", str(directory),
         "--save", "", "--appendonly", "yes", "--appendfsync", "no",
         "--logfile", str(directory / "redis.log")],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    client = redis.Redis(unix_socket_path=str(socket))
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError as error:
            if time.monotonic() > deadline or process.poll() is not None:
                log = (directory / "redis.log").read_text() if (directory / "redis.log").exists() else ""
                raise RuntimeError(f"Redis did not start from {BINARIES[name]}: {log}") from error
            time.sleep(0.01)
    client.close()
    return Server(name, f"unix://{socket}", process.pid), process


@pytest.fixture(scope="session")
def redis_servers() -> Iterator[dict[str, Server]]:
    """Every server of this machine, started when first asked for and stopped at the end of the session."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    servers: dict[str, Server] = {}
    # Socket paths are limited to about 100 bytes, so not pytest's long directories.
    with tempfile.TemporaryDirectory(prefix="clr") as base:
        for name in BINARIES:
            directory = Path(base) / name
            directory.mkdir()
            servers[name], running[name] = start_server(name, directory)
        try:
            yield servers
        finally:
            for process in running.values():
                process.send_signal(signal.SIGKILL)
                process.wait()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of the store run on every server of this machine, all others on one."""
    if "redis_server" in metafunc.fixturenames:
        names = list(BINARIES) if "store" in metafunc.definition.path.parts else list(BINARIES)[:1]
        metafunc.parametrize("redis_server", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def redis_server(redis_servers: dict[str, Server], request: pytest.FixtureRequest) -> Server:
    """A real Redis."""
    return redis_servers[request.param]


@dataclass(frozen=True)
class Address:
    """The settings a store reads, for tests that need no others."""

    redis_url: str
    hub: str


@pytest.fixture
def hub() -> str:
    """A name space of its own for each test."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def store(redis_server: Server, hub: str) -> Iterator[Store]:
    """A store on a real Redis, alone in its hub; checked for residue when the test is over."""
    with Store.connect(Address(redis_server.url, hub)) as made:
        yield made
        problems = residue(made)
        assert not problems, "the test left residue in Redis:\n" + "\n".join(problems)


@dataclass
class _Scan:
    """Everything under one hub, read raw."""

    store: Store
    problems: list[str]

    def run(self) -> list[str]:
        client, keys = self.store.client, self.store.keys
        for raw in client.scan_iter(match=f"{keys.hub}:*", count=1000):
            key = raw.decode()
            known = keys.kind_of(key)
            if known is None:
                self.problems.append(f"{key}: keys.py does not know it")
                continue
            kind, part = known
            actual = client.type(key).decode()
            if actual != kind.type:
                self.problems.append(f"{key}: holds a {actual}, keys.py says {kind.type}")
            else:
                self._owner(key, kind.name, part)
        self._members()
        return self.problems

    def _owner(self, key: str, name: str, part: str) -> None:
        client, keys = self.store.client, self.store.keys
        if name in ("hist", "inbox", "control", "dedup", "below") and not client.exists(keys.inst(part)):
            self.problems.append(f"{key}: its instance is gone")
        elif name in ("open", "pay") and part.removeprefix("~") not in self.executions:
            self.problems.append(f"{key}: no instance has this execution")
        elif name == "open" and self.executions[part.removeprefix("~")][1] in ENDED:
            self.problems.append(f"{key}: its instance has ended")
        elif name in ("claims", "flight", "trig"):
            self.problems.append(f"{key}: still held: {client.type(key)}")
        elif name == "inst":
            self._record(part)
        if name == "below":
            for child in client.smembers(key):
                if client.hget(keys.inst(child.decode()), "parent") != part.encode():
                    self.problems.append(f"{key}: {child.decode()} is no child of it")

    @property
    def executions(self) -> dict[str, tuple[str, str]]:
        client, keys = self.store.client, self.store.keys
        found: dict[str, tuple[str, str]] = {}
        for raw in client.scan_iter(match=keys.inst("*"), count=1000):
            execution, status = client.hmget(raw, "execution", "status")
            found[execution.decode()] = (raw.decode().removeprefix(keys.inst("")), status.decode())
        return found

    def _record(self, instance: str) -> None:
        client, keys = self.store.client, self.store.keys
        record = {k.decode(): v.decode() for k, v in client.hgetall(keys.inst(instance)).items()}
        ready = client.zscore(keys.ready, instance) is not None
        if record.get("claim") or record["stage"] == "2":
            self.problems.append(f"{instance}: still claimed by {record.get('claim')}")
        if ready != (record["stage"] == "1"):
            self.problems.append(f"{instance}: stage {record['stage']} but {'' if ready else 'not '}in ready")
        for status in STATUSES:
            listed = client.zscore(keys.of("idx_status", status), instance) is not None
            if listed != (status == record["status"]):
                self.problems.append(f"{instance}: status {record['status']} but wrong in the index {status}")
        indexes = [keys.of("idx_name", record["name"]), keys.path("idx_created"), keys.path("idx_id")]
        indexes += [keys.of("idx_tag", f"{k}={v}") for k, v in json.loads(record["tags"]).items()]
        self.problems += [
            f"{instance}: missing in {i}" for i in indexes if client.zscore(i, instance) is None
        ]
        if record["status"] in ENDED and client.exists(keys.inbox(instance), keys.of("control", instance)):
            self.problems.append(f"{instance}: ended with an inbox")

    def _members(self) -> None:
        client, keys = self.store.client, self.store.keys
        executions = self.executions
        instances = {instance for instance, _ in executions.values()}
        for member in self._zset(keys.ready):
            if member not in instances:
                self.problems.append(f"ready: {member} is gone")
        for member in self._zset(keys.timers):
            execution, seq, instance = member.split(":", 2)
            live = client.hget(keys.inst(instance), "delayed") if not execution else None
            if live is None and client.hget(keys.open(execution), seq) != b"t":
                self.problems.append(f"timers: {member} has no open step")
        for member in self._zset(keys.parked):
            if not member.startswith("~") and not client.hexists(
                keys.open(member.split(":")[0]), member.split(":")[1]
            ):
                self.problems.append(f"parked: {member} has no open step")
        for member in self._zset(keys.deadlines):
            _, execution, seq, attempt, _ = member.split(":", 4)
            value = client.hget(keys.open(execution), seq)
            if value is None or value.split(b"|")[0].decode() != attempt:
                self.problems.append(f"deadlines: {member} has no open attempt")
        self._indexes(instances)

    def _indexes(self, instances: set[str]) -> None:
        client, keys = self.store.client, self.store.keys
        bodies = {k.decode() for k in client.hkeys(keys.parked_body)}
        if bodies != set(self._zset(keys.parked)):
            self.problems.append("parked:body and parked differ")
        for raw in client.lrange(keys.closing, 0, -1):
            self.problems.append(f"closing: left over: {raw!r}")
        for kind in ("idx_name", "idx_tag", "idx_status"):
            for key in client.scan_iter(match=keys.path(kind) + "*"):
                for member in self._zset(key.decode()):
                    if member not in instances:
                        self.problems.append(f"{key.decode()}: {member} is gone")

    def _zset(self, key: str) -> list[str]:
        return [m.decode() for m in self.store.client.zrange(key, 0, -1)]


def residue(store: Store) -> list[str]:
    """What should not be in this hub when nobody works on it: unknown keys, orphans, claims, bad indexes."""
    return _Scan(store, []).run()


@pytest.fixture(scope="session")
def residue_of() -> Callable[[Store], list[str]]:
    """The residue checker, for tests that look at many hubs, or at one many times."""
    return residue
