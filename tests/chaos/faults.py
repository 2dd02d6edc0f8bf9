"""What goes wrong in a chaos run, and when: a plan drawn from the seed, and the hand that carries it out.

Every fault that had an effect is written to `faults.jsonl` with the processes it hit and from when to when,
so that the checker can tell an activity that was run twice for a reason from one that was not.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import redis

from celeriac.celery_app import embedded
from celeriac.cli.exits import Exit

from .fleet import STOP_SECONDS, Fleet, Member, descendants, is_helper, ports_of, signal_all

STARTING: Final = 60.0  # seconds that a start may take beside everything else, with its patience for Redis
WEIGHTS: Final = {
    "kill": 24,  # SIGKILL of the main process alone, as the OOM killer does
    "stop": 8,  # SIGTERM of the main process, as a deployment does
    "kill group": 10,  # with its children
    "kill child": 8,  # of the prefork pool
    "kill beat": 4,  # the helper that renews a worker's lease
    "pause short": 12,  # SIGSTOP, then SIGCONT: shorter than the lease
    "pause long": 14,  # longer
    "cut one": 10,  # one connection of a process
    "cut all": 8,  # all of a process
    "cut everybody": 4,
    "redis kill": 6,
    "redis stop": 4,  # SIGTERM
    "redis pause": 3,
}


@dataclass(frozen=True)
class Fault:
    """One planned fault. `pick` (0..1) chooses among what is there when it comes."""

    at: float  # seconds from the beginning
    kind: str
    seconds: float  # until the restart or SIGCONT
    pick: float
    whole: bool  # a pause: children and helpers too


def plan(seed: int, seconds: float, every: tuple[float, float], lease: float, beat: float) -> list[Fault]:
    """The faults of a run; the same for the same arguments. Every kind comes once before any comes again."""
    rng = random.Random(f"faults {seed}")
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    first = rng.sample(kinds, len(kinds))
    faults: list[Fault] = []
    at = rng.uniform(*every)
    while at < seconds:
        kind = first.pop() if first else rng.choices(kinds, weights)[0]
        faults.append(Fault(at, kind, _length(kind, rng, lease, beat), rng.random(), rng.random() < 0.5))
        at += rng.uniform(*every)
    return faults


def _length(kind: str, rng: random.Random, lease: float, beat: float) -> float:
    if kind == "pause short":
        return rng.uniform(0.05, 0.3) * lease
    if kind == "pause long":
        return rng.uniform(1.1, 1.8) * lease + beat
    if kind == "redis pause":
        return rng.uniform(0.1, 0.5) * lease
    return rng.uniform(0.05, 0.3) * lease


class Hand:
    """Carries a plan out. `turn()` does what is due and returns at once; call it often, in one thread."""

    def __init__(self, fleet: Fleet, faults: list[Fault]) -> None:
        self._fleet = fleet
        self._log = os.open(fleet.folder / "faults.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._redis_down = ""  # how it went
        self.counts: dict[str, int] = {}
        self.surprises: list[str] = []
        self._redis_was_away = 0.0  # monotonic: until when, the last time
        for fault in faults:
            self._later(fault.at, lambda fault=fault: self._do(fault))

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), work))

    @property
    def idle(self) -> bool:
        """Nothing is planned any more, and everything is up again."""
        return not self._due and not any(member.stop_by for member in self._fleet.members.values())

    def turn(self) -> None:
        """Do what is due, and replace who died."""
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        for member in self._fleet.members.values():
            if member.stop_by:
                self._watch_stop(member)
            elif not member.alive and not member.killed:
                self._surprise(member)

    def _watch_stop(self, member: Member) -> None:
        """It was asked to stop: it must end well, in time."""
        if member.alive and time.monotonic() < member.stop_by:
            return
        if member.alive:
            self.surprises.append(member.overdue())
            signal_all([member.pid], signal.SIGKILL)
            member.process.wait()
        elif member.process.returncode and not member.young:
            code = member.process.returncode
            self.surprises.append(f"{member.name} (pid {member.pid}) stopped with {code}; see its log")
        member.stop_by, member.killed = 0.0, True
        self._later(1.0, lambda: self._fleet.restart(member.name))

    def _surprise(self, member: Member) -> None:
        """It ended by itself. A start while Redis is away is refused."""
        young = time.monotonic() - member.started < STARTING
        away = self._redis_down or (self._redis_was_away > member.started)
        refused = member.name == "client" or member.process.returncode == Exit.NO_REDIS
        member.killed = True
        # One that was stopped for longer than a turn may last ends itself when it goes on, as it should.
        paused = member.name.startswith("orchestrator") and time.monotonic() - member.resumed < 5
        if not (young and away and refused) and not paused:
            code = member.process.returncode
            self.surprises.append(
                f"{member.name} (pid {member.pid}) ended by itself with {code}; see its log"
            )
        self._later(1.0, lambda: self._fleet.restart(member.name))

    # --- the faults -------------------------------------------------------------------------------

    def _do(self, fault: Fault) -> None:
        verb = fault.kind.partition(" ")[0]
        done: dict[str, Any] | None
        if verb == "redis":
            done = self._redis(fault)
        elif fault.kind == "cut everybody":
            done = self._cut(fault, None)
        else:
            member = self._victim(fault)
            if member is None:
                return
            done = {"kill": self._kill, "pause": self._pause, "cut": self._cut, "stop": self._stop}[verb](
                fault, member
            )
        if done is not None:
            self.counts[fault.kind] = self.counts.get(fault.kind, 0) + 1
            self._write(asdict(fault) | done)

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def _victim(self, fault: Fault) -> Member | None:
        names = list(self._fleet.members)
        if fault.kind == "stop":
            names.remove("client")  # to it, SIGTERM is the end
        elif fault.kind == "kill child":
            names = ["worker-prefork"]
        elif fault.kind == "kill beat":
            names = [name for name in names if name.startswith("worker-")]
        up = [m for n in names if (m := self._fleet.members[n]).is_up]
        return up[int(fault.pick * len(up))] if up else None

    def _kill(self, fault: Fault, member: Member) -> dict[str, Any] | None:
        below = descendants(member.pid)
        helpers = [pid for pid in below if is_helper(pid)]
        chosen = {
            "kill": [member.pid],
            "kill group": [member.pid, *below],
            "kill child": [pid for pid in below if pid not in helpers][:1],
            "kill beat": helpers,
        }[fault.kind]
        if not chosen:
            return None
        # Written before the deed: whatever it causes comes later.
        # Without its helper the worker's lease may lapse before another has started: see witness.py.
        hit = [*chosen, member.pid] if fault.kind == "kill beat" else chosen
        done = {"victim": member.name, "pids": hit, "from": time.time(), "until": time.time()}
        if member.pid in chosen:
            member.killed = True
            self._later(fault.seconds, lambda: self._fleet.restart(member.name))
        signal_all(chosen, signal.SIGKILL)
        if member.killed:
            member.process.wait()
        return done

    def _stop(self, fault: Fault, member: Member) -> dict[str, Any]:
        now = time.time()
        member.stop_by = time.monotonic() + STOP_SECONDS
        member.process.terminate()
        return {"victim": member.name, "pids": [member.pid], "from": now, "until": now}

    def _pause(self, fault: Fault, member: Member) -> dict[str, Any]:
        chosen = [member.pid, *(descendants(member.pid) if fault.whole else ())]
        pid = member.pid

        def go_on() -> None:
            if member.pid == pid:
                member.paused, member.resumed = False, time.monotonic()
            signal_all(chosen, signal.SIGCONT)

        member.paused = True
        now = time.time()
        signal_all(chosen, signal.SIGSTOP)
        self._later(fault.seconds, go_on)
        return {"victim": member.name, "pids": chosen, "from": now, "until": now + fault.seconds}

    def _cut(self, fault: Fault, member: Member | None) -> dict[str, Any] | None:
        if self._redis_down:
            return None
        members = list(self._fleet.members.values()) if member is None else [member]
        pids = [pid for each in members for pid in (each.pid, *descendants(each.pid))]
        ports = ports_of(pids)
        now = time.time()
        with redis.Redis.from_url(self._fleet.redis.url, socket_timeout=5) as client:
            own = client.client_id()
            found: list[dict[str, str]] = client.client_list()
            ids = [
                int(each["id"])
                for each in found
                if int(each["id"]) != own
                and (member is None or int(each["addr"].rpartition(":")[2]) in ports)
            ]
            if fault.kind == "cut one" and ids:
                ids = [ids[int(fault.pick * 997) % len(ids)]]
            for id in ids:
                client.client_kill_filter(_id=str(id))
        victim = member.name if member else "everybody"
        return {"victim": victim, "pids": pids, "from": now, "until": now, "cut": len(ids)} if ids else None

    def _redis(self, fault: Fault) -> dict[str, Any] | None:
        if self._redis_down:
            return None
        server, now = self._fleet.redis, time.time()
        pid = server.pid
        self._redis_down = fault.kind
        if fault.kind == "redis pause":
            os.kill(pid, signal.SIGSTOP)
        elif fault.kind == "redis kill":
            server.kill()
        else:
            server.stop()

        def up() -> None:
            if fault.kind == "redis pause":
                os.kill(pid, signal.SIGCONT)
            else:
                embedded_start(server)
            self._redis_down, self._redis_was_away = "", time.monotonic()

        self._later(fault.seconds, up)
        return {"victim": "redis", "pids": [pid], "from": now, "until": now + fault.seconds}


def embedded_start(server: embedded.EmbeddedRedis) -> None:
    """Start it again on its data; a second try, should somebody have its port for a moment."""
    try:
        server.restart()
    except embedded.EmbeddedRedisError:
        time.sleep(1)
        server.restart()
