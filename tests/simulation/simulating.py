"""One seed: a random program on two orchestrators, two workers and two clients, under random faults.

The first client starts the program, raises its events, ends it if it is to be ended, and waits; the second
suspends and resumes it, and looks on. In some seeds Redis comes back once with an older state, as
after a crash that lost a tail: then every connection breaks, and the first client does all it did once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import programs
import redis
from gated import GatedStore
from judging import Residue, ends
from processes import Orchestrator, Process, Worker
from scheduling import Scheduler
from upsets import copy_messages, roll_back
from verdicts import ENDED, ID, MOST, judge
from virtual import Virtual

from celeriac.celery_app.app import create_app
from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.emission import Emitter
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Keys, Store
from celeriac.celery_app.transport import inflight
from celeriac.orchestrations.errors import (
    InstanceEndedError,
    InstanceExistsError,
    InstanceNotFoundError,
    RedisUnavailableError,
)

AIMS = (
    "pauses claim", "pauses commit", "pauses take", "pauses complete", "pauses retry", "pauses adopt",
    "dies after claim", "dies after commit", "dies after take", "dies after adopt", "dies before commit",
    "lost after start", "lost after raise_event", "lost after control", "lost after commit",
    "lost after complete", "lost after retry", "lost after take", "lost after claim",
)  # fmt: skip
DRAGS = (1, 1, 30, 300)  # how slow the commands of a process are: what others do between two of them


@dataclass
class Verdict:
    """What came of a seed."""

    seed: int
    wrong: list[str]
    struck: list[str]
    commands: int
    trace: list[str] = field(repr=False)
    spec: dict[str, Any] = field(repr=False)

    @property
    def digest(self) -> str:
        """The same for the same interleaving."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        story = "\n  ".join([f"seed {self.seed}: make simulate SEED={self.seed}", *self.wrong])
        return f"{story}\n  program: {json.dumps(self.spec)}\n  struck: {self.struck}"


class Simulations:
    """Runs seeds on one Redis database; what is dear to make is made once."""

    def __init__(self, url: str, residue: Residue) -> None:
        self.url, self.residue = url, residue
        self.raw = redis.Redis.from_url(url)
        self._apps: dict[tuple[Settings, int], Any] = {}

    def app(self, settings: Settings, number: int) -> Any:
        """A Celery app; every living worker has one to itself."""
        if (settings, number) not in self._apps:
            made = create_app(settings, registry=programs.ACTIVITIES, load=False)
            self._apps[settings, number] = made
        return self._apps[settings, number]

    def run(self, seed: int) -> Verdict:
        """One seed, judged."""
        self.raw.flushdb()
        programs.EFFECTS.clear()
        return Simulation(self, seed).judged()

    def close(self) -> None:
        """Let go of Redis and the apps."""
        self.raw.flushdb()
        for app in self._apps.values():
            app.close()
        self.raw.close()


class Simulation:
    """A seed on its way."""

    def __init__(self, home: Simulations, seed: int) -> None:
        self.home, self.seed = home, seed
        dice = random.Random(f"world {seed}")
        self.settings = Settings(
            redis_url=home.url, hub="sim", queue="simq", window=dice.choice((2, 500)),
            cache_size=dice.choice((0, 1000)), aside_over=dice.choice((256, 64 * 1024)),
        )  # fmt: skip
        self.spec = programs.Maker(seed).program()
        self.virtual = Virtual(seed)
        faulty = dice.random() < 0.9
        budget = dice.randint(1, 10) if faulty else 0
        self.scheduler = Scheduler(self.virtual, seed, dice.choice((0.01, 0.03, 0.1)), budget)
        self.scheduler.aim = dice.choice(AIMS) if dice.random() < 0.5 else ""
        self.rolls_back = dice.uniform(0.5, 30) if faulty and dice.random() < 0.2 else 0.0
        self.copies = dice.choice((0, 0, 1, 4)) if faulty else 0  # messages that come twice
        again = not self.rolls_back and dice.random() < 0.15
        self.before = dice.choice(("purge", "restart", "replace")) if again else ""  # an earlier run's end
        if self.before == "replace" and programs.has_children(self.spec):
            self.before = "restart"  # its children would not have ended, and their ids would be in use
        self._passed: set[str] = set()  # steps of that end that are known to be done
        self.hasty: set[str] = set()  # workers that run all they have taken before they look again
        self.dice = dice
        self.keys = Keys(self.settings.hub)
        self.look = Client(
            settings=self.settings, registry=programs.REGISTRY, store=Store(home.raw, self.keys, home.url)
        )
        self.over = False
        self.rolled_back = 0
        self._numbers = itertools.count(1)

    # --- the run ---

    def judged(self) -> Verdict:
        """Run it and compare it with the model."""
        wrong: list[str] = []
        programs.Sleeper.sleep, programs.Sleeper.forgets = self.virtual_sleep, bool(self.rolls_back)
        inflight._numbers = itertools.count(1)
        with self.virtual.installed():
            try:
                self._play()
            except Exception as error:  # noqa: BLE001  whatever happens in an actor is a verdict on the seed
                wrong.append(f"{type(error).__name__}: {error}; at the end {ends(self.look)}")
        programs.Sleeper.sleep = lambda seconds: None
        effects = Counter(programs.EFFECTS)
        if not wrong:
            try:
                wrong = judge(self, effects)
            except Exception as error:  # noqa: BLE001  a history that cannot even be read is a verdict, too
                wrong = [f"at the judgement {type(error).__name__}: {error}"]
        scheduler = self.scheduler
        return Verdict(self.seed, wrong, scheduler.struck, len(scheduler.trace), scheduler.trace, self.spec)

    def virtual_sleep(self, seconds: float) -> None:
        """What an activity does that takes its time."""
        if seconds:
            self.virtual.sleep(seconds)

    def _play(self) -> None:
        self._client("client", self._main)
        self._client("meddler", self._meddle)
        for number in (1, 2):
            self._orchestrator(0.0)
            self._worker(number, 0.0)
        if self.rolls_back:
            self.scheduler.spawn(Process("redis"), lambda: roll_back(self))
        if self.copies:
            self.scheduler.spawn(Process("copier"), lambda: copy_messages(self))
        self.scheduler.run()
        self._care()

    def _name(self, kind: str) -> str:
        return f"{kind}{next(self._numbers)}"

    def _store(self, process: Process) -> GatedStore:
        return GatedStore(self.home.raw, self.keys, self.home.url, self.virtual, self.scheduler, process)

    def _mortal(
        self, process: Process, main: Callable[[], None], again: Callable[[float], None]
    ) -> Callable[[], None]:
        """`main`, followed by a new process in its place when it was killed."""

        def life() -> None:
            try:
                main()
            finally:
                if process.dead and self.scheduler.failure is None:
                    again(self.dice.uniform(0, 3))

        return life

    def _orchestrator(self, after: float) -> None:
        shell = Process(self._name("orchestrator"))
        store = self._store(shell)
        emitter = Emitter(self.home.app(self.settings, 0), self.settings)
        names = list(programs.ACTIVITIES.names())
        process = Orchestrator(shell.name, store, emitter, programs.REGISTRY, self.settings, names)
        store._who = process

        def main() -> None:
            while not self.over:
                if not process.step():
                    self.virtual.sleep(0.002)
            process.stop()

        process.drag = self.dice.choice(DRAGS)
        self.scheduler.spawn(process, self._mortal(process, main, self._orchestrator), after)

    def _worker(self, number: int, after: float) -> None:
        shell = Process(self._name("worker"))
        store = self._store(shell)
        app = self.home.app(self.settings, number)
        process = Worker(
            shell.name, store, app, self.settings, self.virtual, most=self.dice.choice((1, 2, MOST))
        )
        process.beats_itself, process.drag = False, self.dice.choice(DRAGS)
        if self.dice.random() < 0.5:
            process.at_once = 1
        else:
            self.hasty.add(shell.name)
        store._who = process

        def main() -> None:
            self._helper(process)
            while not self.over:
                if not process.step():
                    self.virtual.sleep(self.dice.uniform(0.02, 1.0))
            process.stop()

        self.scheduler.spawn(
            process, self._mortal(process, main, lambda after: self._worker(number, after)), after
        )

    def _helper(self, worker: Worker) -> None:
        """The beat helper: it dies with its worker, and stands still with it."""
        shell = Process(self._name("helper"))
        shell.helper = True
        store = self._store(shell)

        def main() -> None:
            while not worker.dead and not self.over:
                if not worker.paused:
                    with contextlib.suppress(redis.ConnectionError):
                        worker.beat(store)
                self.virtual.sleep(self.settings.beat)

        self.scheduler.spawn(shell, main)

    # --- clients ---

    def _client(self, name: str, script: Callable[[Client], None], after: float = 0.0) -> None:
        process = Process(self._name(name))
        process.drag = self.dice.choice(DRAGS)
        client = Client(settings=self.settings, registry=programs.REGISTRY, store=self._store(process))
        again = lambda later: self._client(name, script, later)  # noqa: E731  a new client does it all again
        self.scheduler.spawn(process, self._mortal(process, lambda: script(client), again), after)

    def _main(self, client: Client) -> None:
        done, numbered = -1, not self.rolls_back  # the order of events may be lost with a tail
        while done != self.rolled_back:
            done = self.rolled_back
            if self.before:
                self._earlier(client)
            else:
                self._ask(lambda: self._start(client, "once"))
            for number, name in enumerate(programs.events_of(self.spec)):
                if self.dice.random() < 0.5:  # else together with the last one
                    self.virtual.sleep(self.dice.uniform(0, 4))
                self._ask(lambda n=number, e=name: client.raise_event(ID, e, n * numbered, dedup_key=str(n)))
            if self.spec["ending"] in ("cancel", "terminate"):
                self.virtual.sleep(self.dice.choice((0.01, 0.3, 1, 2, 4, 10, 60)))
                self._ask(lambda: getattr(client, self.spec["ending"])(ID, "enough"))
            while done == self.rolled_back and not self._has_ended(client):
                self.virtual.sleep(1)
                if self.virtual.ms % 7 == 0:
                    self._ask(lambda: client.resume(ID))
        self.scheduler.budget, self.over = 0, True

    def _start(self, client: Client, key: str, **options: Any) -> None:
        client.start("program", self.spec, instance_id=ID, idempotency_key=key, **options)

    def _earlier(self, client: Client) -> None:
        """The program runs for a while, is ended from outside, and runs once more under the same id."""
        self._once("start", lambda: self._start(client, "earlier"))
        self._once("wait", lambda: self.virtual.sleep(self.dice.choice((0.01, 1, 5, 20))))
        if self.before == "replace":
            self._once("again", lambda: self._start(client, "once", on_conflict="terminate_existing"))
            return
        self._once("end", lambda: client.terminate(ID, "once more"))
        self._once("rest", lambda: self._rest(client))
        if self.before == "restart":
            self._once("again", lambda: client.restart(ID))
        else:
            self._once("purge", lambda: client.purge(ID))
            self._once("again", lambda: self._start(client, "once"))

    def _rest(self, client: Client) -> None:
        """Its children end: those of the next run have the same ids."""
        while programs.has_children(self.spec) and not self._has_ended(client):
            self.virtual.sleep(0.3)

    def _once(self, step: str, what: Callable[[], object]) -> None:
        """Until it is known to be done; also a client that takes a dead one's place goes on behind it."""
        if step not in self._passed:
            self._ask(what)
            self._passed.add(step)

    def _has_ended(self, client: Client) -> bool:
        """All that there is, looked at twice: one that ends may start another behind the list's back."""
        ids: list[list[str]] = []
        with self._known():
            for _ in range(2):
                states = list(client.iterate())
                if any(state.status not in ENDED for state in states):
                    return False
                ids.append([state.id for state in states])
        return len(ids) == 2 and ids[0] == ids[1]

    def _meddle(self, client: Client) -> None:
        for _ in range(self.dice.randint(0, 4)):
            self.virtual.sleep(self.dice.uniform(0, 8))
            if self.over:
                return
            verb = self.dice.choice((client.suspend, client.get, client.progress, client.history))
            self._ask(lambda v=verb: v(ID))
            if verb == client.suspend:
                self.virtual.sleep(self.dice.uniform(0, 15))
                self._ask(lambda: client.resume(ID))

    @contextlib.contextmanager
    def _known(self) -> Iterator[None]:
        """What may be refused: it was done before, or is over."""
        with contextlib.suppress(
            InstanceEndedError, InstanceNotFoundError, InstanceExistsError, RedisUnavailableError
        ):
            yield

    def _ask(self, what: Callable[[], object]) -> None:
        """Ask until it is known to have been applied."""
        with contextlib.suppress(InstanceEndedError, InstanceNotFoundError, InstanceExistsError):
            while True:
                with contextlib.suppress(RedisUnavailableError):
                    what()
                    return
                self.virtual.sleep(0.5)

    # --- the end ---

    def _care(self) -> None:
        """A last orchestrator sweeps until nothing of the dead is left."""
        process = Process("caretaker")
        store = self._store(process)
        emitter = Emitter(self.home.app(self.settings, 0), self.settings)
        names = list(programs.ACTIVITIES.names())
        last = Orchestrator("caretaker", store, emitter, programs.REGISTRY, self.settings, names)
        worker = Worker("cleaner", store, self.home.app(self.settings, 1), self.settings, self.virtual)
        raw: Any = self.home.raw
        last.step()
        for _ in range(200):
            last.step()
            worker.step()
            self.virtual.advance(0.3)
            if raw.zcard(self.keys.beats) <= 2 and not raw.llen(self.keys.closing):
                break
        worker.stop()
        last.stop()
