"""A laboratory for the engine: real Redis, real orchestrator workers in threads, and a pump that plays
Celery.

The pump takes the emitted messages by the transport's own script and reports outcomes by the backend's own
calls, so these tests need no Celery worker and yet mock nothing of ours.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sites import Site

from celeriac.activities import ActivityContext, ActivityRegistry, activity, run_activity
from celeriac.celery_app import retrying
from celeriac.celery_app.app import create_app
from celeriac.celery_app.client.sync import Client, OrchestrationState
from celeriac.celery_app.emission import Emitter
from celeriac.celery_app.messages import STEP_META_HEADER, GroupRef, Step, TaskId, read_header
from celeriac.celery_app.orchestrator.worker import OrchestratorWorker
from celeriac.celery_app.sealing import Seal, seal_of
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store, flights, payloads
from celeriac.orchestrations.errors import InstanceNotFoundError, RetryAfter, failure_from
from celeriac.orchestrations.history import AnyEvent
from celeriac.orchestrations.registry import Orchestrator, Registry, orchestrator


def wait_until(condition: Callable[[], Any], timeout: float = 20, what: str = "") -> Any:
    """The first true value of `condition`; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"not within {timeout} s: {what or condition}"
        time.sleep(0.01)


class Pump:
    """Plays the activity workers: takes messages, runs activities, reports outcomes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.incarnation = f"w{secrets.token_hex(6)}"
        self.ran: list[tuple[str, int]] = []  # (name, attempt), in order
        self.groups: list[GroupRef | None] = []
        self.most_taken = 0  # messages in one take
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pump", daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert self.error is None, self.error

    def _run(self) -> None:
        store, base, beaten = self.lab.new_store(), 0, 0.0
        queues = [(self.lab.settings.queue_key(), 1000)]
        store.run(flights.beat(store.keys, self.incarnation, 10_000, join=True))
        try:
            while not self._stop.is_set():
                if time.monotonic() - beaten > 2:
                    store.run(flights.beat(store.keys, self.incarnation, 10_000))
                    beaten = time.monotonic()
                store.run(flights.promote(store.keys))
                taken = store.run(flights.take(store.keys, self.incarnation, base, 100, queues))
                base += len(taken.messages)
                self.most_taken = max(self.most_taken, len(taken.messages))
                calls = [self._outcome(store, message) for _, _, message in taken.messages]
                for reply in store.run_all(calls):
                    if isinstance(reply, Exception):
                        raise reply
                if calls:
                    store.run(flights.ack(store.keys, self.incarnation, [n for n, _, _ in taken.messages]))
                else:
                    self._stop.wait(0.002)
        except BaseException as error:  # noqa: BLE001  shown by stop(), in the test's own thread
            self.error = error
        finally:
            store.run(flights.forget(store.keys, self.incarnation, 10_000))
            store.client.zrem(store.keys.beats, self.incarnation)
            store.close()

    def _outcome(self, store: Store, raw: bytes) -> Any:
        message = json.loads(raw)
        headers = message["headers"]
        (call,), _, _ = json.loads(base64.b64decode(message["body"]))
        task = TaskId.parse(headers["id"])
        assert task is not None
        header = read_header(headers[STEP_META_HEADER])
        group = None
        if headers.get("group"):
            group = GroupRef(headers["group"], int(headers["group_index"]), header.size)
        step = Step(task, headers["task"], call, header, group)
        self.ran.append((step.name, task.attempt))
        self.groups.append(group)
        context = ActivityContext(
            instance_id=task.instance, execution_id=task.execution, seq=task.seq, attempt=task.attempt
        )
        activity = self.lab.activities.get(step.name)
        try:
            if activity is None:
                raise LookupError(step.name)
            result = run_activity(activity, self.lab.text(store, task.execution, call), context)
        except Exception as error:  # noqa: BLE001  an activity may raise anything
            now = int(time.time() * 1000)
            failure = failure_from(error)
            again = retrying.judge(step, failure, now, error.delay if isinstance(error, RetryAfter) else None)
            return retrying.failed(store.keys, self.lab.emitter, self.lab.seal, step, failure, again, now)
        return retrying.succeeded(store.keys, self.lab.seal, step, self.lab.put_aside(store, task, result))


@dataclass
class Lab:
    """One hub, its workflows and its processes."""

    settings: Settings
    store: Store
    registry: Registry = field(default_factory=Registry)
    activities: ActivityRegistry = field(default_factory=ActivityRegistry)
    workers: list[tuple[OrchestratorWorker, threading.Thread]] = field(default_factory=list)
    pumps: list[Pump] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = Client(settings=self.settings, registry=self.registry, store=self.store)

    # --- what runs ---

    def orchestrator(self, fn: Any = None, **options: Any) -> Any:
        """Declare an orchestrator of this test."""
        made = orchestrator(registry=self.registry, **options)
        return made(fn) if fn else made

    def activity(self, fn: Any = None, **options: Any) -> Any:
        """Declare an activity of this test."""
        made = activity(registry=self.activities, **options)
        return made(fn) if fn else made

    def work(self, registry: Registry | None = None, **settings: Any) -> OrchestratorWorker:
        """Start an orchestrator worker in a thread."""
        chosen = replace(self.settings, **settings)
        store = self.new_store()
        worker = OrchestratorWorker(
            store, self.emitter, registry or self.registry, chosen, activities=self.activities.names()
        )
        thread = threading.Thread(target=worker.run, name="orchestrator", daemon=True)
        thread.start()
        self.workers.append((worker, thread))
        wait_until(lambda: worker.incarnation, what="the orchestrator to join")
        return worker

    def halt(self, worker: OrchestratorWorker) -> None:
        """Stop a worker gracefully."""
        for known, thread in list(self.workers):
            if known is worker:
                known.stop()
                self.store.client.lpush(self.store.keys.wake, "1")  # so that it looks at once
                thread.join(15)
                assert not thread.is_alive()
                self.workers.remove((known, thread))

    def pump(self) -> Pump:
        """Start a player of activity workers."""
        pump = Pump(self)
        self.pumps.append(pump)
        pump.start()
        return pump

    def up(self) -> Pump:
        """One orchestrator and one pump."""
        self.work()
        return self.pump()

    def close(self) -> None:
        for pump in self.pumps:
            pump.stop()
        for worker, _ in list(self.workers):
            self.halt(worker)

    @property
    def emitter(self) -> Emitter:
        app = create_app(self.settings, registry=self.activities, load=False)
        return Emitter(app, self.settings)

    @property
    def seal(self) -> Seal:
        return seal_of(self.settings)

    def new_store(self) -> Store:
        return Store.connect(self.settings)

    # --- what a test asks ---

    def run(
        self, what: Orchestrator[Any, Any] | str, input: Any = None, *, timeout: float = 30, **more: Any
    ) -> OrchestrationState:
        """Start and wait for the end."""
        return self.client.wait(self.client.start(what, input, **more), timeout=timeout)

    until = staticmethod(wait_until)

    def status(self, instance: str) -> str:
        """The status, empty while there is no such instance."""
        try:
            return self.client.get(instance).status
        except InstanceNotFoundError:
            return ""

    def history(self, instance: str) -> list[AnyEvent]:
        return list(self.client.history(instance))

    def kinds(self, instance: str) -> list[str]:
        """The names of the kinds of event in a history."""
        return [type(event).__name__ for event in self.history(instance)]

    # --- what the pump needs ---

    def text(self, store: Store, execution: str, ref: str) -> str:
        if not ref.startswith("@"):
            return self.seal.clear(ref)
        return self.seal.unpack(store.run(payloads.fetch(store.keys, execution, [ref[1:]]))[0])

    def put_aside(self, store: Store, task: TaskId, text: str) -> str:
        if len(text) <= self.settings.aside_over:
            return text
        name = f"p{task.seq}.{task.attempt}"
        store.client.hset(store.keys.pay(task.execution), name, self.seal.pack(text))
        return f"@{name}"


@pytest.fixture
def lab(redis_server: Any, store: Store, hub: str) -> Iterator[Lab]:
    """A laboratory on a hub of its own; what it leaves behind in Redis is checked by `store`."""
    codec = os.environ.get("ENGINE_CODEC", "")  # ENGINE_CODEC=keyrings:first: the same with all values sealed
    settings = Settings(redis_url=redis_server.url, hub=hub, queue=f"{hub}-queue", codec=codec)
    made = Lab(settings, store)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def site(redis_server: Any, tmp_path: Path) -> Iterator[Site]:
    """Processes of one test, stopped at its end."""
    made = Site(redis_server.url, tmp_path)
    try:
        yield made
    finally:
        made.close()
