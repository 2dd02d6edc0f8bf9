"""A counting task under attack: a seeded stream of signals and cut connections against real workers.

Each run of a counting task appends one line, `id worker`, to a log. Half of the work are plain Celery
tasks with a late acknowledgement on a user's own queue, half are activities whose outcome the engine
records. `Attack.run` keeps both queues filled while it attacks; `Attack.verdict` waits until the living
workers have settled everything and says what was lost, recorded twice, run twice or left behind.
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import time
import uuid
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celeriac.celery_app.store import flights, turns
from celeriac.celery_app.store.records import Commit
from celeriac.orchestrations.history import TaskCompleted

COUNTING = """
import os, time
from celeriac.activities import activity
from celeriac.celery_app import app

WORKER = os.environ.get("COUNTED_AS", "?")

def note(path, name, seconds):
    time.sleep(seconds)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{name} {WORKER}\\n".encode())
    finally:
        os.close(file)

@app.task(name="counted.plain", ignore_result=True, reject_on_worker_lost=True)
def plain(path, name, seconds):
    note(path, name, seconds)

@activity(name="counted.activity")
def counted(path: str, name: str, seconds: float) -> str:
    note(path, name, seconds)
    return name
"""

KINDS = ("cut all", "cut one", "pause", "pause beyond the lease", "freeze beyond the lease", "terminate",
         "kill main", "kill group", "kill child", "kill helper")  # fmt: skip
LETHAL = {"pause beyond the lease", "freeze beyond the lease", "kill main", "kill group", "kill child"}
BATCH = 40  # activities of one instance
LOW = 60  # messages of a queue below which it is filled up


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):  # a thread starts helpers, too
        with suppress(OSError):
            found += [int(p) for p in children.read_text().split()]
    return found


def _is_helper(pid: int) -> bool:
    try:
        return b"transport.beat" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@dataclass
class Fighter:
    """One worker process."""

    name: str
    process: Any
    leaving: float = 0.0  # when it was asked to stop
    hurt: bool = False  # died, or was paused beyond its lease

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def helpers(self) -> list[int]:
        """Its beat helper."""
        return [pid for pid in _children(self.process.pid) if _is_helper(pid)]

    def children(self) -> list[int]:
        """Its pool's processes."""
        return [pid for pid in _children(self.process.pid) if not _is_helper(pid)]


@dataclass
class Verdict:
    """What the attack did to the work."""

    plain: int
    activities: int
    attacks: Counter[str]
    lost: list[str]
    unrecorded: list[str]
    recorded_twice: list[str]
    repeated: int
    wrongly_repeated: list[str]
    seconds: float

    def __str__(self) -> str:
        return (
            f"{sum(self.attacks.values())} attacks {dict(self.attacks)} on {self.plain} plain tasks and "
            f"{self.activities} activities in {self.seconds:.0f} s: lost {len(self.lost)}, "
            f"without an outcome {len(self.unrecorded)}, two outcomes {len(self.recorded_twice)}, "
            f"run again {self.repeated} (without a death {len(self.wrongly_repeated)})"
        )


@dataclass
class Attack:
    """Workers of one pool under attack, and the work they are to do."""

    bench: Any
    workers: Any
    pool: str
    path: Path
    seed: int
    size: int = 3
    fighters: list[Fighter] = field(default_factory=list)
    plain: int = 0
    executions: dict[str, str] = field(default_factory=dict)
    attacks: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        queue = f"{self.bench.settings.queue}.{self.pool}"
        self.queues = (f"{queue}.own", queue)
        self.bench.app.send_task(
            "counted.plain", args=[str(self.path), "model", 0.0], queue=f"{self.queues[0]}.model",
            ignore_result=True,
        )  # fmt: skip
        self.model = json.loads(self.client.rpop(self._key(f"{self.queues[0]}.model")))

    @property
    def client(self) -> Any:
        """The one connection that is never cut: it does the cutting."""
        return self.bench.store.client

    def _key(self, queue: str) -> str:
        return self.bench.settings.queue_key(queue)

    # --- work -----------------------------------------------------------------------------------

    def feed(self) -> None:
        """Keep both queues filled."""
        own, engine = self.queues
        for _ in range(BATCH if self.client.llen(self._key(own)) < LOW else 0):
            self._publish()
        if self.client.llen(self._key(engine)) < LOW:
            self._open_activities()

    def _publish(self) -> None:
        name, message = f"p{self.plain}", json.loads(json.dumps(self.model))
        body = json.loads(base64.b64decode(message["body"]))
        body[0] = [str(self.path), name, self._seconds()]
        message["body"] = base64.b64encode(json.dumps(body).encode()).decode()
        message["headers"]["id"] = message["properties"]["correlation_id"] = name
        message["headers"]["root_id"] = name
        message["properties"]["delivery_tag"] = str(uuid.uuid4())
        message["properties"]["delivery_info"]["routing_key"] = self.queues[0]
        self.bench.store.run(
            flights.publish(self.bench.store.keys, self._key(self.queues[0]), json.dumps(message))
        )
        self.plain += 1

    def _open_activities(self) -> None:
        instance = f"{self.pool}-{len(self.executions)}"
        execution = self.bench.start(instance)
        self.executions[instance] = execution
        steps = [
            self.bench.step(
                instance, execution, "counted.activity",
                json.dumps([[str(self.path), f"{instance}/{seq}", self._seconds()], {}]),
                seq=seq, queue=self.queues[1],
            )
            for seq in range(1, BATCH + 1)
        ]  # fmt: skip
        self._commit(instance, execution, steps)

    def _commit(self, instance: str, execution: str, steps: list[Any]) -> None:
        """As `Bench.commit`, in the presence of many instances that are ready."""
        bench, keys, run = self.bench, self.bench.store.keys, self.bench.store.run
        run(flights.beat(keys, "o0", 600_000, join=bench.numbers == 0))
        mine: Any = None
        while mine is None:
            bench.numbers += 1000
            for claim in run(turns.claim(keys, "o0", bench.numbers, 200)):
                if claim.instance == instance:
                    mine = claim
                else:
                    run(turns.release(keys, claim.instance, claim.claim, 3_600_000, ""))
        turn = Commit(
            instance=instance, execution=execution, claim=mine.claim, base=mine.history_length,
            inbox=len(mine.inbox), events=list(mine.inbox), messages=steps,
        )  # fmt: skip
        run(turns.commit(keys, turn))

    def _seconds(self) -> float:
        return self.random.choice((0.0, 0.005, 0.02, 0.02, 0.1)) if self.random.random() < 0.98 else 0.9

    # --- attack ---------------------------------------------------------------------------------

    def man(self, wait: bool = False) -> None:
        """Start workers until there are enough again."""
        while sum(f.alive and not f.leaving for f in self.fighters) < self.size:
            name = f"{self.pool}{len(self.fighters)}"
            process = self.workers.start(self.pool, "-Q", ",".join(self.queues), wait=False, COUNTED_AS=name)
            self.fighters.append(Fighter(name, process))
        for fighter in self.fighters if wait else ():
            if fighter.alive and not fighter.leaving:
                self.workers.wait_ready(fighter.process)

    def run(self, kills: int) -> None:
        """Attack so many times."""
        self.feed()
        self.man(wait=True)
        kinds: list[str] = []
        while sum(self.attacks.values()) < kills:
            if not kinds:  # every kind comes as often, in a random order
                kinds = [kind for kind in KINDS if kind != "kill child" or self.pool == "prefork"]
                self.random.shuffle(kinds)
            self._breathe(self.random.uniform(0.2, 1.6))
            if self._strike(kinds[-1]):
                kinds.pop()
            self.man()

    def _breathe(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.feed()
            time.sleep(0.05)
        for fighter in self.fighters:
            slow = fighter.leaving and time.monotonic() - fighter.leaving > 40
            assert not (slow and fighter.alive), (
                f"{fighter.name} does not stop:\n{self.workers.log(fighter.process)[-3000:]}"
            )
            if fighter.leaving or fighter.hurt or fighter.alive:
                continue
            raise AssertionError(
                f"{fighter.name} ended by itself:\n{self.workers.log(fighter.process)[-3000:]}"
            )

    def _strike(self, kind: str) -> bool:
        ready = [
            f for f in self.fighters if f.alive and not f.leaving and " ready." in self.workers.log(f.process)
        ]
        if not ready and not kind.startswith("cut"):
            return False  # all of them are still starting
        self.attacks[kind] += 1
        if kind == "cut all":
            self.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        elif kind == "cut one":
            own = self.client.client_id()
            others = [c["id"] for c in self.client.client_list() if c["id"] != str(own)]
            with suppress(Exception):  # it may be gone already
                self.client.execute_command("CLIENT", "KILL", "ID", self.random.choice(others))
        else:
            self._hurt(kind, self.random.choice(ready))
        return True

    def _hurt(self, kind: str, victim: Fighter) -> None:
        pid, lease = victim.process.pid, self.bench.settings.lease
        victim.hurt = victim.hurt or kind in LETHAL
        if kind.startswith("pause"):
            self._pause([pid], lease, kind != "pause")
        elif kind.startswith("freeze"):
            self._pause([pid, *victim.children(), *victim.helpers()], lease, True)
        elif kind == "terminate":
            victim.process.send_signal(signal.SIGTERM)
            victim.leaving = time.monotonic()
        elif kind == "kill main":
            victim.process.kill()
            victim.process.wait()
        elif kind == "kill group":
            os.killpg(pid, signal.SIGKILL)
            victim.process.wait()
        elif kind == "kill child":
            for child in victim.children()[:1]:
                _signal(child, signal.SIGKILL)
        else:
            for helper in victim.helpers():
                _signal(helper, signal.SIGKILL)

    def _pause(self, pids: list[int], lease: float, long: bool) -> None:
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        self._breathe(lease * (self.random.uniform(1.2, 1.7) if long else self.random.uniform(0.05, 0.4)))
        for pid in pids:
            _signal(pid, signal.SIGCONT)

    # --- verdict --------------------------------------------------------------------------------

    def settle(self, seconds: float) -> None:
        """Until the living have done everything and hold nothing."""
        self.man(wait=True)
        until = time.monotonic() + seconds
        while left := self.left():
            assert time.monotonic() < until, (
                f"seed {self.seed}, after {dict(self.attacks)} stays behind: {left}"
            )
            time.sleep(0.1)
        survivors = [f for f in self.fighters if f.alive and not f.leaving]
        for fighter in survivors:
            fighter.process.send_signal(signal.SIGTERM)
        for fighter in survivors:
            assert fighter.process.wait(40) == 0, self.workers.log(fighter.process)[-3000:]

    def left(self) -> dict[str, Any]:
        """Everything that is not settled."""
        client, keys = self.client, self.bench.store.keys
        flying = {k.decode(): client.hlen(k) for k in client.scan_iter(f"{keys.flight('')}*", count=1000)}
        found = {
            "queued": sum(client.llen(self._key(queue)) for queue in self.queues),
            "flying": flying,
            "parked": client.zrange(keys.parked, 0, -1, withscores=True),
            "open": {i: found for i, e in self.executions.items() if (found := client.hgetall(keys.open(e)))},
            "undone": sorted(self.wanted() - set(self.runs()))[:20],
        }  # fmt: skip
        return {name: value for name, value in found.items() if value}

    def wanted(self) -> set[str]:
        """The names of all that was to be done."""
        activities = {f"{i}/{seq}" for i in self.executions for seq in range(1, BATCH + 1)}
        return activities | {f"p{n}" for n in range(self.plain)}

    def runs(self) -> dict[str, list[str]]:
        """By which workers each was run."""
        found: dict[str, list[str]] = defaultdict(list)
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            name, worker = line.split(" ")
            found[name].append(worker)
        return found

    def verdict(self) -> Verdict:
        """What became of the work; call `settle` first."""
        runs, hurt = self.runs(), {f.name for f in self.fighters if f.hurt}
        outcomes: Counter[str] = Counter()
        for instance in self.executions:
            for event in self.bench.inbox(instance):
                assert isinstance(event, TaskCompleted), event
                outcomes[f"{instance}/{event.seq}"] += 1
        repeated = {name: by for name, by in runs.items() if len(by) > 1}
        activities = {name for name in self.wanted() if "/" in name}
        return Verdict(
            plain=self.plain,
            activities=len(activities),
            attacks=self.attacks,
            lost=sorted(self.wanted() - set(runs)),
            unrecorded=sorted(activities - set(outcomes)),
            recorded_twice=sorted(name for name, n in outcomes.items() if n > 1),
            repeated=len(repeated),
            wrongly_repeated=[
                f"{n} by {by}" for n, by in repeated.items() if sum(w not in hurt for w in by) > 1
            ],
            seconds=time.monotonic() - self.began,
        )


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
