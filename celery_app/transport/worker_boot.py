"""What a Celery worker does at its start so that our transport and its beat know it. `install(app)` adds
it to an app. The beat helper is started before the pool (helper.py).
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

from celery import Celery, bootsteps

from ..activity_worker import imposed
from ..activity_worker.runtime import runtime_of
from ..sealing import seal_of
from ..settings import Settings
from ..signing import verifier
from .handed import release, unheard
from .helper import Helper
from .redis import Executor, Transport

__all__ = ["BeatStep", "ExecutorStep", "install"]

ACCEPT_WITHIN = 1.0  # seconds


def install(app: Celery, settings: Settings) -> None:
    """Have the workers of this app beat, and tell the transport about their pools."""

    step = type("CeleriacBeat", (BeatStep,), {"settings": settings})
    steps: Any = app.steps  # Celery makes it with the app; its stubs say it may be None
    steps["worker"].add(step)
    steps["consumer"].add(ExecutorStep)


class BeatStep(bootsteps.StartStopStep):
    """Starts the helper in the worker's main process."""

    requires = ("celery.worker.components:Timer",)
    settings: Settings

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        self._helper: Helper | None = None
        super().__init__(parent, **kwargs)

    def start(self, parent: Any) -> None:
        """Start."""
        self._helper = Helper(self.settings, _info(parent, self.settings))
        self._helper.start()


def _info(worker: Any, settings: Settings) -> dict[str, Any]:
    return {
        "kind": "worker",
        "hostname": worker.hostname,
        "pid": os.getpid(),
        "pool": _kind(worker.pool_cls),
        "concurrency": worker.concurrency,
        "queues": sorted(worker.app.amqp.queues.consume_from),
        "started": int(time.time() * 1000),
        "lists": imposed.lists(worker.app, settings),
        "codec": seal_of(settings).name,
    }


class ExecutorStep(bootsteps.StartStopStep):
    """Tells each new connection's transport what the pool is like."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        """Runs again after each reconnection."""
        transport = parent.connection.transport
        if isinstance(transport, Transport):
            kind = _kind(type(parent.pool))
            transport.executor = Executor(
                slots=partial(_slots, parent.pool),
                late=partial(_late, parent.app),
                inline=kind == "solo",
                verify=verifier(runtime_of(parent.app).settings.signing_key),
                dropped=partial(release, parent.pool) if kind == "prefork" else _nothing,
            )
            if kind == "prefork" and parent.hub is not None:
                # A hook of Celery's worker that its own consumer leaves unused: called first when it stops.
                parent.close = partial(_let_children_accept, parent, transport)


def _kind(pool_class: type) -> str:
    """prefork, thread, solo, ...: the module names, because importing the classes would import every pool."""
    return pool_class.__module__.rpartition(".")[2]


def _slots(pool: Any) -> int:
    return max(1, pool.num_processes)


def _let_children_accept(consumer: Any, transport: Transport) -> None:
    """Go on for a moment, until every message that was handed to the pool has been accepted by a child.

    A stopping worker forgets those that were not. Their tasks run all the same, would run again
    elsewhere, and billiard's child waits 30 s for somebody to read the result before it ends.
    """
    from celery.worker import state  # only a worker has it loaded

    transport.stopping = True
    until, loop = time.monotonic() + ACCEPT_WITHIN, consumer.hub.create_loop()
    while unheard() and not state.should_terminate and time.monotonic() < until:
        try:
            next(loop)
        except StopIteration:
            loop = consumer.hub.create_loop()
    if not state.should_terminate:
        release(consumer.pool)  # what a child has, but has not said so yet, is waited for


def _late(app: Celery, name: str) -> bool:
    task: Any = app.tasks.get(name)
    return task is not None and task.acks_late


def _nothing() -> set[str]:
    """Threads finish everything that was handed to them, and solo has finished already."""
    return set()
