"""One run of a scenario: client, listener, orchestrator and worker take turns in one thread, on virtual time,
until the scenario is over; at most one fault strikes, at a command that was chosen beforehand.

A process that dies is replaced at once by a new one, as a supervisor would do; what it held comes back when
its lease lapses. Everything ends with a graceful stop of all (the fault may strike there too) and a
caretaker that lives on until nothing of the dead is left.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from gated import GatedStore, Killed
from processes import Listener, Orchestrator, Process, Worker
from redis.exceptions import ConnectionError as RedisConnectionError
from virtual import Virtual

from celeriac.activities import ActivityRegistry
from celeriac.celery_app.app import create_app
from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.emission import Emitter
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Keys, Store
from celeriac.orchestrations.errors import RedisUnavailableError
from celeriac.orchestrations.registry import Registry
from celeriac.orchestrations.triggers import QueueTrigger

LONGEST = 300.0  # virtual seconds a scenario may take
IDLE, BUSY = 0.2, 0.005  # virtual seconds that a round takes


class Kind(enum.Enum):
    """What happens at the chosen command."""

    DIES_BEFORE = "dies before"
    DIES_AFTER = "dies after"
    LOST_BEFORE = "lost before"  # the connection breaks and the command never arrives
    LOST_AFTER = "lost after"  # the command was applied, its reply is lost

    @property
    def kills(self) -> bool:
        """Whether the process ends."""
        return self in (Kind.DIES_BEFORE, Kind.DIES_AFTER)


@dataclass(frozen=True)
class Fault:
    """A fault at the `at`-th command of a run, counted over all processes from 1."""

    at: int
    kind: Kind


@dataclass
class Do:
    """A step of the client. It may be repeated: the client died, or does not know whether it was applied."""

    what: Callable[[Client], object]


@dataclass
class Until:
    """The client waits for something; `look` sees the world as it is."""

    look: Callable[[Stage], object]
    seconds: float = LONGEST


@dataclass
class Scenario:
    """What a client does, on which code, with what in the end."""

    name: str
    steps: Sequence[Do | Until]
    instances: Sequence[str]  # whose end is compared; none: that of all, whatever their ids
    trigger: QueueTrigger | None = None
    messages: Sequence[str] = ()  # what lies in the trigger's queue
    settings: dict[str, Any] = field(default_factory=dict)
    serve: bool = True  # whether there is an activity worker from the beginning


class Injector:
    """The gate of a run: counts commands and strikes once."""

    def __init__(self, virtual: Virtual, fault: Fault | None) -> None:
        self._virtual, self._fault = virtual, fault
        self.count = 0
        self.struck: tuple[str, str] | None = None  # process and command
        self.log: list[tuple[str, str]] = []

    def send(self, who: Process, what: str, apply: Callable[[], Any]) -> Any:
        if who.dead:
            raise Killed
        self.count += 1
        self.log.append((who.name, what))
        kind = self._fault.kind if self._fault is not None and self._fault.at == self.count else None
        if kind is not None:
            self.struck = (who.name, what)
        if kind is Kind.LOST_BEFORE:
            raise RedisConnectionError("the connection was cut before this command")
        if kind is Kind.DIES_BEFORE:
            who.dead = True
            raise Killed
        reply = apply()
        if kind is Kind.LOST_AFTER:
            raise RedisConnectionError("the connection was cut before the reply")
        if kind is Kind.DIES_AFTER:
            who.dead = True
            raise Killed
        return reply

    def disarm(self) -> int:
        """No fault from here on; how many commands there were."""
        self._fault = None
        return self.count

    def blocked(self, who: Process, seconds: float) -> None:
        """Nothing comes while it waits, for all take turns; time passes between the rounds."""


class Desk(Process):
    """The client's process."""

    client: Client


@dataclass
class Crew:
    """What runs are made of, made once: registries, effects, Celery apps, a connection."""

    url: str
    registry: Registry
    activities: ActivityRegistry
    effects: list[tuple[str, str]]  # what activities did, as they did it: name and key
    raw: redis.Redis = field(init=False)

    def __post_init__(self) -> None:
        self.raw = redis.Redis.from_url(self.url)
        self._apps: dict[Settings, Any] = {}

    def app(self, settings: Settings) -> Any:
        """The Celery app of these settings."""
        if settings not in self._apps:
            self._apps[settings] = create_app(settings, registry=self.activities, load=False)
        return self._apps[settings]

    def close(self) -> None:
        """Let go of Redis and the apps."""
        for app in self._apps.values():
            app.close()
        self.raw.close()


class Stage:
    """A scenario on its way."""

    def __init__(self, crew: Crew, scenario: Scenario, fault: Fault | None, seed: int = 1) -> None:
        self.crew, self.scenario = crew, scenario
        self.settings = Settings(redis_url=crew.url, hub="sweep", queue="sweepq", **scenario.settings)
        self.virtual = Virtual(seed)
        self.gate = Injector(self.virtual, fault)
        self.keys = Keys(self.settings.hub)
        self.store = Store(crew.raw, self.keys, crew.url)  # sees everything, counts for nothing
        self.look = Client(settings=self.settings, registry=crew.registry, store=self.store)
        self.processes: dict[str, Process] = {}
        self.deaths: list[str] = []
        self.calls = 0  # commands that a fault may strike
        self.played = 0  # those before the stop of everything
        self._born, self._serving = 0, scenario.serve
        self._queued = list(scenario.steps)
        self._waiting_since = 0.0

    # --- what a scenario sees ---

    def field(self, instance: str, name: str) -> str:
        """A field of an instance's record, empty when there is none."""
        found: Any = self.crew.raw.hget(self.keys.inst(instance), name)
        return found.decode() if found else ""

    def status(self, instance: str) -> str:
        """The status of an instance, empty when there is none."""
        return self.field(instance, "status")

    def queued(self) -> int:
        """How many activity messages wait."""
        found: Any = self.crew.raw.llen(self.settings.queue_key())
        return found

    def serve(self) -> bool:
        """From now on there is an activity worker."""
        self._serving = True
        return True

    def ended(self, *instances: str) -> bool:
        """Whether all of them have ended."""
        return all(self.status(i) in ("Completed", "Failed", "Cancelled", "Terminated") for i in instances)

    def all_ended(self, number: int) -> bool:
        """Whether there are so many instances and all have ended."""
        found: Any = self.crew.raw.zrange(self.keys.path("idx_id"), 0, -1)
        return len(found) >= number and self.ended(*(raw.decode() for raw in found))

    # --- the run ---

    def play(self) -> None:
        """From an empty database to the end of the scenario and of all its processes."""
        self.crew.raw.flushdb()
        self.crew.effects.clear()
        if self.scenario.trigger is not None:
            for message in self.scenario.messages:
                self.crew.raw.lpush(self.scenario.trigger.queue, message)
        with self.virtual.installed():
            self._rounds(lambda: not self._queued)
            self.played = self.gate.count
            self._stop_all()
            self.calls = self.gate.disarm()
            self._care()

    def _rounds(self, over: Callable[[], bool]) -> None:
        end = self.virtual.monotonic() + LONGEST
        while not over():
            busy = self._client_step()
            for kind in self._kinds():
                busy = self._step(kind) or busy
            self.virtual.advance(BUSY if busy else IDLE)
            if self.virtual.monotonic() > end:
                raise AssertionError(f"stuck after {LONGEST} virtual seconds: {self._situation()}")

    def _situation(self) -> str:
        instances = {i: self.status(i) for i in self.scenario.instances}
        gate = self.gate
        return f"{instances}, steps left {len(self._queued)}, struck {gate.struck}, last {gate.log[-12:]}"

    def _kinds(self) -> list[str]:
        kinds = ["listener"] if self.scenario.trigger is not None else []
        return [*kinds, "orchestrator", *(["worker"] if self._serving else [])]

    def _process(self, kind: str) -> Process:
        """The living process of a kind; a new one when the last has died."""
        found = self.processes.get(kind)
        if found is None or found.dead:
            self._born += 1
            found = self.processes[kind] = self._make(kind, f"{kind}{self._born}")
        return found

    def _store_of(self, process: Process) -> GatedStore:
        return GatedStore(self.crew.raw, self.keys, self.crew.url, self.virtual, self.gate, process)

    def _make(self, kind: str, name: str) -> Process:
        settings, shell = self.settings, Process(name)
        store = self._store_of(shell)
        made: Process
        if kind == "client":
            made = Desk(name)
            made.client = Client(settings=settings, registry=self.crew.registry, store=store)
        elif kind == "listener":
            assert self.scenario.trigger is not None
            client = Client(settings=settings, registry=self.crew.registry, store=store)
            made = Listener(name, store, client, self.scenario.trigger, self.virtual)
        elif kind == "worker":
            made = Worker(name, store, self.crew.app(settings), settings, self.virtual)
        else:
            emitter = Emitter(self.crew.app(settings), settings)
            names = self.crew.activities.names()
            made = Orchestrator(name, store, emitter, self.crew.registry, settings, list(names))
        store._who, made.store = made, store
        return made

    @contextlib.contextmanager
    def _mortal(self, process: Process) -> Iterator[None]:
        """Killed ends the process and nothing else."""
        try:
            yield
        except Killed:
            assert process.dead
        if process.dead:
            self.deaths.append(process.name)

    def _step(self, kind: str) -> bool:
        process = self._process(kind)
        found = False
        with self._mortal(process):
            found = process.step()
        return found or process.dead

    def _client_step(self) -> bool:
        if not self._queued:
            return False
        step = self._queued[0]
        if isinstance(step, Until):
            if step.look(self):
                self._queued.pop(0)
                return True
            return False
        desk = self._process("client")
        assert isinstance(desk, Desk)
        with self._mortal(desk):
            try:
                step.what(desk.client)
                self._queued.pop(0)
            except RedisUnavailableError:
                pass  # not known whether it was applied: a user asks again
        return True

    # --- the end ---

    def _stop_all(self) -> None:
        for process in self.processes.values():
            if not process.dead and not isinstance(process, Desk):
                with self._mortal(process):
                    process.stop()

    def _care(self) -> None:
        """What died comes back to nobody; a last orchestrator sweeps until nothing is left of it."""
        self.processes.pop("orchestrator", None)
        end = self.virtual.monotonic() + 60
        process = self._process("orchestrator")
        beats, closing = self.keys.beats, self.keys.closing
        raw: Any = self.crew.raw
        process.step()
        while raw.zcard(beats) > 1 or raw.llen(closing) or raw.zcard(self.keys.ready):
            process.step()
            self.virtual.advance(0.5)
            if self.virtual.monotonic() > end:
                raise AssertionError(f"beats left: {raw.zrange(beats, 0, -1, withscores=True)}")
        process.stop()
