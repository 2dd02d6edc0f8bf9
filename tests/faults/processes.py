"""The processes of a run, without a process: the real loops, stepped by hand, each over its gated store.

- `Orchestrator` steps OrchestratorWorker's own tick.
- `Worker` does what the transport's channel and intake do in a solo worker (settle; acknowledge, promote
  and take in one write; adopt after a lost connection) around the real InFlight, and runs activities
  through Celery's own request, pool, tracer, our task class and our result backend.
- `Listener` steps a QueueListener.

A process that was killed is left as it is: nothing of it reaches Redis any more.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

from celery.app.base import Celery
from celery.concurrency.solo import TaskPool
from gated import GatedStore
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from virtual import Virtual

from celeriac.celery_app.activity_worker.request import ActivityRequest
from celeriac.celery_app.activity_worker.runtime import runtime_of
from celeriac.celery_app.client.sync import Client, StoreError
from celeriac.celery_app.emission import Emitter, offline_connection
from celeriac.celery_app.orchestrator.worker import OrchestratorWorker
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import FencedError, flights
from celeriac.celery_app.transport.envelope import read
from celeriac.celery_app.transport.inflight import Held, InFlight
from celeriac.celery_app.transport.intake import refusal
from celeriac.celery_app.transport.prefetch import Pace
from celeriac.celery_app.triggers.queue import Identity, QueueListener
from celeriac.orchestrations.errors import RedisUnavailableError
from celeriac.orchestrations.registry import Registry
from celeriac.orchestrations.triggers import QueueTrigger


class Process:
    """Something with a store that can die."""

    def __init__(self, name: str) -> None:
        self.name, self.dead = name, False
        self.paused = False  # it stands still, and so does its beat helper
        self.drag = 1  # how slow its commands are, in a simulation
        self.helper = False  # a beat helper, which lives and dies with its worker
        self.severed = False  # the own connection of its transport broke, which it is yet to notice
        self.store: GatedStore

    def step(self) -> bool:
        """One round of its loop; whether it found anything to do."""
        raise NotImplementedError

    def stop(self) -> None:
        """Leave gracefully."""
        raise NotImplementedError


class Orchestrator(Process):
    """An orchestrator process."""

    def __init__(self, name: str, store: GatedStore, emitter: Emitter, registry: Registry, settings: Settings,
                 activities: Sequence[str]) -> None:  # fmt: skip
        super().__init__(name)
        self.store = store
        self.worker = OrchestratorWorker(store, emitter, registry, settings, activities=activities, batch=8)

    def step(self) -> bool:
        worker = self.worker
        if not worker.incarnation:
            worker._until_done(worker._join)
            return True
        before = worker.turns_taken
        worker._safely(worker._tick if not worker._origin.changed else worker._start_over)
        return worker.turns_taken > before or bool(worker._answers)

    def stop(self) -> None:
        self.worker._leave()


class Worker(Process):
    """A Celery worker with a solo pool."""

    def __init__(self, name: str, store: GatedStore, app: Celery, settings: Settings, virtual: Virtual,
                 *, most: int = 4) -> None:  # fmt: skip
        super().__init__(name)
        self.store, self.app, self._settings, self._virtual = store, app, settings, virtual
        self.runtime = runtime_of(app)
        self.runtime.emitter = Emitter(app, settings)
        self._most = most
        self.at_once = most  # of what it has taken, how many it runs before it asks Redis for more
        self.flying = InFlight(name, store.keys, round(settings.lease * 1000), Pace())
        self._channel = offline_connection(app).channel()
        self._pool = TaskPool(1, app=app)
        self._beat_at = 0.0
        self._changes = store.origin.changes  # of the server behind it, as the channel counts them
        self.beats_itself = True  # else somebody else calls `beat`

    def step(self) -> bool:
        self.runtime._store, self.runtime._store_pid = (
            self.store,
            os.getpid(),
        )  # one app serves all workers in turn
        self.app.set_current()
        flying = self.flying
        if self.severed:
            self.severed = False
            self._reconnect()
            return True
        if self._changes != self.store.origin.changes:
            self._changes = self.store.origin.changes
            flying.abandon()
        try:
            if flying.incarnation is None or flying.unsettled:
                flying.settle(self.store.send)
            if self.beats_itself:
                self.beat()
            if (left := flying.overdue_in()) is not None and left <= 0:
                flying.hand_back(self.store.send)
            self._take()
        except RedisConnectionError:
            self._reconnect()
            return True
        found = bool(flying.buffer)
        for _ in range(self.at_once):
            if (held := flying.next(1)) is None:
                break
            self._run(held)
        return found

    def stop(self) -> None:
        with contextlib.suppress(RedisConnectionError):  # leaving tells it as well
            self.flying.flush(self.store.send)
        for _ in range(5):
            try:
                self.flying.leave(self.store.send, ())
                break
            except RedisConnectionError:
                continue
        InFlight.IDLE.pop(self.flying.name, None)

    def _reconnect(self) -> None:
        """Celery's consumer starts again: the old channel leaves, the next one resumes what it left."""
        with contextlib.suppress(RedisConnectionError):  # the next channel settles it
            self.flying.leave(self.store.send, ())
        InFlight.IDLE.pop(self.flying.name, None)

    def beat(self, store: GatedStore | None = None) -> None:
        """What the beat helper does, over a connection of its own if it has one."""
        run = (store or self.store).send
        if self._virtual.monotonic() < self._beat_at or self.flying.incarnation is None:
            return
        self._beat_at = self._virtual.monotonic() + self._settings.beat
        try:
            run(flights.beat(self.store.keys, self.flying.incarnation, self.flying.lease))
        except FencedError:
            if store is None:  # a helper has no access to the worker's memory: the next take tells it
                self.flying.abandon()
        run(flights.sweep_flights(self.store.keys))

    def _take(self) -> None:
        """One write of the intake: acknowledgements, promotion, take."""
        flying, keys = self.flying, self.store.keys
        incarnation = flying.incarnation
        if incarnation is None:
            return
        sent, queue = flying.draw(), self._settings.queue_key()
        room = max(1, self._most - len(flying.buffer))
        take = flights.take(keys, incarnation, flying.numbers(room), room, [(queue, room)])
        try:
            *others, reply = self.store.pipeline([*sent.calls(keys), flights.promote(keys), take])
        except RedisConnectionError:
            flying.undraw(sent)
            raise
        refused = [other for other in others if isinstance(other, ResponseError)]
        if refused:
            flying.undraw(sent)
            raise refusal(refused[0])
        flying.told(sent)
        if isinstance(reply, ResponseError):
            if not isinstance(error := refusal(reply), FencedError):
                raise error
            flying.abandon(incarnation)
            return
        flying.took(incarnation, take.decode(reply), [self._settings.queue])

    def _run(self, held: Held) -> None:
        envelope = read(held.raw)
        envelope["properties"]["delivery_tag"] = held.tag
        message = self._channel.message_to_python(envelope)
        request = ActivityRequest(
            message, app=self.app, hostname=self.name, task=self.app.tasks[message.headers["task"]],
            on_ack=lambda *_: self.flying.finish(held.tag),
            on_reject=lambda _, __, requeue: self.flying.finish(held.tag, requeue=requeue),
        )  # fmt: skip
        request.execute_using_pool(self._pool)


class Listener(Process):
    """The process of a queue trigger."""

    def __init__(
        self, name: str, store: GatedStore, client: Client, trigger: QueueTrigger, virtual: Virtual
    ) -> None:
        super().__init__(name)
        self.store, self._virtual, self._settings = store, virtual, client.settings
        self.identity = Identity(client, [trigger.queue], client.settings.lease)
        self.listener = QueueListener(client, trigger, self.identity, _Flag(virtual), 0.25, 1.0)
        self._beat_at = 0.0

    def step(self) -> bool:
        """A beat when it is due, then one step; what `QueueListener.run` catches is caught here."""
        try:
            if self._virtual.monotonic() >= self._beat_at:
                self.identity.beat()
                self._beat_at = self._virtual.monotonic() + self._settings.beat
            self.listener._step()
        except (RedisUnavailableError, StoreError):
            self.listener._unsure = True
            self._beat_at = 0.0
        return bool(self.listener._todo)

    def stop(self) -> None:
        self.listener._give_back()
        self.identity.leave()


class _Flag(threading.Event):
    """Waits in virtual time."""

    def __init__(self, virtual: Virtual) -> None:
        super().__init__()
        self._virtual = virtual

    def wait(self, timeout: float | None = None) -> bool:
        self._virtual.sleep(timeout or 0.0)
        return self.is_set()
