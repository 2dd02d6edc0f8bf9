"""The processes of a chaos run: Redis on a loopback port, orchestrators, one worker of each pool, a client.

TCP and not a socket file, because only there /proc tells which process a connection of Redis belongs to.
All files (logs, data, what was noted) are in one folder. `stop()` leaves nothing running, whatever state it
was in.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from celeriac.celery_app import embedded
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store

ROOT: Final = Path(__file__).parents[2]
HUB: Final = "chaos"
STOP_SECONDS: Final = 40.0
# Below the range from which Linux takes ports for outgoing connections: else a client of the absent Redis
# may be given its port.
PORTS: Final = range(20_000, 32_000)


@dataclass
class Member:
    """One process of the fleet and its incarnations."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes]
    started: float  # monotonic
    pids: list[int] = field(default_factory=list)  # every main process there was
    killed: bool = False  # by us: its death is no surprise
    paused: bool = False
    resumed: float = 0.0  # monotonic: when it was last let go on
    stop_by: float = 0.0  # monotonic: it was asked to stop, and must have by then

    @property
    def pid(self) -> int:
        """The main process of the present incarnation."""
        return self.process.pid

    @property
    def young(self) -> bool:
        """Whether it may be starting still: then SIGTERM simply ends it."""
        return time.monotonic() - self.started < 15 and self.process.returncode == -signal.SIGTERM

    @property
    def is_up(self) -> bool:
        """Whether it runs and nothing is being done to it."""
        return self.alive and not self.paused and not self.killed and not self.stop_by

    @property
    def alive(self) -> bool:
        """Whether the main process runs (or is stopped)."""
        return self.process.poll() is None

    def overdue(self) -> str:
        """It was asked to stop and did not: what to report, when its log says where each process of it is."""
        _ask_for_stacks([self.pid, *descendants(self.pid)])
        return (
            f"{self.name} (pid {self.pid}) did not stop within {STOP_SECONDS:g} s; its log ends with stacks"
        )


class Fleet:
    """All of them. Members are started in `start`, in this order, by the calling thread."""

    def __init__(
        self,
        folder: Path,
        *,
        lease: float,
        beat: float,
        pools: Sequence[str],
        orchestrators: int,
        app: str = "tests.chaos.workflows",
    ) -> None:
        self.folder = folder
        for name in ("logs", "redis"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.redis = embedded.start(folder / "redis", port=free_port(), appendfsync="always")
        self.settings = Settings(redis_url=self.redis.url, hub=HUB, lease=lease, beat=beat, apps=(app,))
        self.members: dict[str, Member] = {}
        self._roles = [f"orchestrator-{n}" for n in range(orchestrators)] + [
            f"worker-{pool}" for pool in pools
        ]

    def start(self, client: Sequence[str] = ()) -> None:
        """Start every process and wait until each is known."""
        for name in self._roles:
            role, pool = name.split("-")[:2]
            arguments = ["-m", "celeriac.cli.main", role]
            if role == "worker":
                arguments += ["--pool", pool, "--concurrency", "3"]
            self._add(name, arguments)
        self.await_processes()
        if client:
            self._add("client", ["-m", "tests.chaos.client", *client])

    def _add(self, name: str, arguments: Sequence[str]) -> None:
        environment = {
            **os.environ,
            **self.settings.environment(),
            "CHAOS_EFFECTS": str(self.folder / "effects.jsonl"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        command = embedded.tethered([sys.executable, *arguments])
        log = self.folder / "logs" / f"{name}.log"
        process = _spawn(command, environment, log)
        self.members[name] = Member(name, command, environment, log, process, time.monotonic(), [process.pid])

    def restart(self, name: str) -> None:
        """Start a dead member again."""
        member = self.members[name]
        member.process = _spawn(member.command, member.environment, member.log)
        member.started = time.monotonic()
        member.killed = member.paused = False
        member.pids.append(member.pid)

    def await_processes(self) -> None:
        """Until every member is known, and nobody who is dead."""
        deadline = time.monotonic() + 120
        with Store.connect(self.settings) as store:
            while not self._is_whole(store):
                dead = [m.name for m in self.members.values() if not m.alive]
                if dead or time.monotonic() > deadline:
                    raise RuntimeError(f"the fleet did not come up ({dead}); see {self.folder / 'logs'}")
                time.sleep(0.1)

    def _is_whole(self, store: Store) -> bool:
        known = {json.loads(info)["pid"] for info in store.client.hvals(store.keys.procs)}
        return known == {self.members[name].pid for name in self._roles}

    def show_stacks(self) -> None:
        """Have every process that runs our workflows write its stacks to its log."""
        _ask_for_stacks(self._ours())

    def stop(self) -> list[str]:
        """End everything; returns what did not end as it should."""
        problems: list[str] = []
        for member in self.members.values():
            if member.alive:
                signal_all([*descendants(member.pid), member.pid], signal.SIGCONT)
                member.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for member in self.members.values():
            try:
                code = member.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                problems.append(member.overdue())
                continue
            if code != 0 and not member.killed:
                problems.append(f"{member.name} (pid {member.pid}) ended with {code}; see its log")
        problems += self._orphans()
        self.kill()
        return problems

    def _orphans(self) -> list[str]:
        """Processes that outlived their main process; given a moment to notice."""
        deadline = time.monotonic() + 10
        while left := self._left():
            if time.monotonic() > deadline:
                return [f"process {pid} ({name}) outlived its worker" for pid, name in left.items()]
            time.sleep(0.1)
        return []

    def _left(self) -> dict[int, str]:
        """Living processes of ours that belong to no living main process."""
        alive = [member.pid for member in self.members.values() if member.alive]
        kept = {*alive, *(pid for main in alive for pid in descendants(main))}
        return {pid: name_of(pid) for pid in self._ours() if pid not in kept}

    def _ours(self) -> list[int]:
        """Every living process of this fleet but Redis: known by its environment, because pids are reused."""
        mark = f"CHAOS_EFFECTS={self.folder / 'effects.jsonl'}".encode()
        return [pid for pid in living() if mark in environment_of(pid)]

    def kill(self) -> None:
        """End whatever still runs, at once."""
        signal_all(self._ours(), signal.SIGKILL)
        for member in self.members.values():
            member.process.wait()
        self.redis.kill()


def _spawn(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


# --- what /proc knows -------------------------------------------------------------------------------


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, from the state on; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def living() -> list[int]:
    """Every process that is no zombie."""
    return [pid for pid in _all_pids() if (fields := _stat(pid)) and fields[0] not in "ZX"]


def environment_of(pid: int) -> list[bytes]:
    """The variables it was started with; none if it is gone or another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def name_of(pid: int) -> str:
    """Its command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "a process"


def descendants(pid: int) -> list[int]:
    """The living children of a process, theirs, and so on."""
    parents = {p: int(fields[1]) for p in living() if (fields := _stat(p))}
    found, new = [], [pid]
    while new:
        new = [p for p, parent in parents.items() if parent in new]
        found += new
    return found


def is_helper(pid: int) -> bool:
    """Whether a process is the beat helper of a worker."""
    return "celery_app.transport.beat" in name_of(pid)


def _ask_for_stacks(pids: Sequence[int]) -> None:
    signal_all([pid for pid in pids if not is_helper(pid)], signal.SIGUSR2)
    time.sleep(1)


def signal_all(pids: Sequence[int], signum: signal.Signals) -> None:
    """Send a signal to those that still live."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            continue


def ports_of(pids: Sequence[int]) -> set[int]:
    """The local TCP ports of the connections that these processes hold."""
    inodes: set[str] = set()
    for pid in pids:
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                inodes.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
            except OSError:
                continue
    ports: set[int] = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in inodes:
            ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def free_port() -> int:
    """A loopback port that nobody listens on."""
    start = os.getpid() * 7 % len(PORTS)
    for n in range(len(PORTS)):
        port = PORTS[(start + n * 13) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")
