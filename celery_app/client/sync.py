"""The client: start instances, look at them, talk to them, wait for them. From ordinary code or from asyncio.

`Client` and `AsyncClient` have the same verbs. Each verb is one operation (operations.py, inspection.py,
queues.py), written once; the two classes only drive it. A client is cheap to keep and safe to share between
threads (`AsyncClient`: between the tasks of one event loop).

Every refusal is an error from `celeriac.orchestrations.errors` under `ClientError`. What can be refused
without asking Redis (a bad id, a value JSON cannot hold, a payload over the limit) is refused before anything
is sent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar

from celeriac.orchestrations.history import AnyEvent
from celeriac.orchestrations.recording import Recording
from celeriac.orchestrations.registry import REGISTRY, Orchestrator, Registry

from ..settings import Settings
from ..store import LimitError, Store, StoreError
from ..store.endings import endings_of
from .async_client import AsyncClient
from .driving import Operation, drive
from .operations import Operations
from .progress import InstanceProgress, ProcessInfo, Served
from .querying import StatusFilter
from .queues import LostListenerError, PoisonMessage, QueueSizes, TakenMessage
from .starting import OnConflict, UnfitInputError
from .state import OrchestrationFailedError, OrchestrationState, Page, Status
from .waiting import check_timeout, until_ended

__all__ = [
    "AsyncClient",
    "Client",
    "InstanceProgress",
    "LimitError",
    "LostListenerError",
    "OnConflict",
    "OrchestrationFailedError",
    "OrchestrationState",
    "Page",
    "PoisonMessage",
    "ProcessInfo",
    "QueueSizes",
    "Served",
    "Status",
    "StoreError",
    "TakenMessage",
    "UnfitInputError",
]

I = TypeVar("I")  # noqa: E741  I for input, as in registry.py
R = TypeVar("R")


class Client:
    """All verbs, blocking. Settings come from the environment unless given."""

    def __init__(
        self,
        redis_url: str | None = None,
        hub: str | None = None,
        *,
        settings: Settings | None = None,
        registry: Registry = REGISTRY,
        store: Store | None = None,
    ) -> None:
        self.settings = settings or Settings.load(redis_url=redis_url, hub=hub)
        self._owns_store = store is None
        self._store = store or Store.connect(self.settings)
        self.operations = Operations(self.settings, registry)

    def close(self) -> None:
        """Close the connections that this client opened."""
        if self._owns_store:
            self._store.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, operation: Operation[R]) -> R:
        """Run one operation; for the parts of Celeriac that add verbs, such as the triggers."""
        return drive(self.operations.checked(operation), self._store)

    @property
    def server_changes(self) -> int:
        """How often another Redis, or the same one restarted, was found at this client's address."""
        return self._store.origin.changes

    # --- instances -------------------------------------------------------------------------------

    def start(
        self,
        orchestrator: str | Orchestrator[I, Any],
        input: I | None = None,
        *,
        instance_id: str | None = None,
        idempotency_key: str | None = None,
        start_at: datetime | timedelta | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        on_conflict: OnConflict = "fail",
    ) -> str:
        """Start an instance, by the name of its orchestrator or the function itself; returns its id.

        None is the same as no input. Where the function is at hand, an input that does not fit it, a missing
        one included, is refused (InvalidArgumentError); else the instance fails when it begins.

        An id that still runs is refused (InstanceExistsError) unless `on_conflict` says "use_existing" or
        "terminate_existing". One that has finished is replaced: its state, output and history are gone, so
        use an id of its own for each thing you want to look up later. Under one `idempotency_key` only the
        first call starts anything, and the others return its id. `start_at` delays the start.
        """
        return self.run(
            self.operations.start(
                orchestrator,
                input,
                instance_id=instance_id,
                idempotency_key=idempotency_key,
                start_at=start_at,
                version=version,
                tags=tags,
                on_conflict=on_conflict,
            )
        )

    def get(self, instance_id: str) -> OrchestrationState:
        """The instance as it is now; InstanceNotFoundError if there is none."""
        return self.run(self.operations.get(instance_id))

    def wait(self, instance_id: str, timeout: float | timedelta | None = None) -> OrchestrationState:
        """Wait until the instance has ended and return it; TimeoutError after `timeout` seconds."""
        seconds = check_timeout(timeout)
        state = self.get(instance_id)
        if state.is_final:
            return state
        woken = threading.Event()

        def pause(longest: float) -> None:
            woken.wait(longest)
            woken.clear()

        with endings_of(self.settings.redis_url).watch(self.operations.channel(instance_id), woken.set):
            ending = until_ended(instance_id, lambda: self.operations.get(instance_id), seconds)
            return drive(ending, self._store, pause)

    def history(self, instance_id: str) -> tuple[AnyEvent, ...]:
        """The history of the instance's current run, oldest event first."""
        return self.run(self.operations.history(instance_id))

    def record(self, instance_id: str) -> Recording:
        """The history with all that it refers to (large payloads, results of fan-outs), for
        `testing.replay_history`; `.to_json()` gives it as text to keep beside your tests.
        """
        return self.run(self.operations.record(instance_id))

    def list(
        self,
        *,
        status: StatusFilter = None,
        name: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        prefix: str | None = None,
        tag: str | None = None,
        limit: int = 100,
        cursor: str = "",
    ) -> Page[OrchestrationState]:
        """One page of the instances that meet every given condition, newest first (by id with `prefix`)."""
        return self.run(
            self.operations.list(
                status=status,
                name=name,
                created_from=created_from,
                created_to=created_to,
                prefix=prefix,
                tag=tag,
                limit=limit,
                cursor=cursor,
            )
        )

    def iterate(
        self,
        *,
        status: StatusFilter = None,
        name: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        prefix: str | None = None,
        tag: str | None = None,
    ) -> Iterator[OrchestrationState]:
        """Every instance that meets the conditions, page after page."""
        cursor = ""
        while True:
            page = self.list(
                status=status,
                name=name,
                created_from=created_from,
                created_to=created_to,
                prefix=prefix,
                tag=tag,
                cursor=cursor,
            )
            yield from page
            cursor = page.cursor
            if not cursor:
                return

    # --- commands --------------------------------------------------------------------------------

    def raise_event(
        self, instance_id: str, name: str, data: Any = None, *, dedup_key: str | None = None
    ) -> None:
        """Send an event to a running instance; with a `dedup_key`, once however often this is called."""
        self.run(self.operations.raise_event(instance_id, name, data, dedup_key=dedup_key))

    def suspend(self, instance_id: str, reason: str = "") -> bool:
        """Stop applying anything but resume, cancel and terminate. False: it was suspended already."""
        return self.run(self.operations.suspend(instance_id, reason))

    def resume(self, instance_id: str, reason: str = "") -> bool:
        """Let a suspended instance go on. False: it was not suspended, and nothing changed."""
        return self.run(self.operations.resume(instance_id, reason))

    def cancel(self, instance_id: str, reason: str = "") -> bool:
        """Raise OrchestrationCancelledError in the orchestrator, so that its code can compensate.

        False: a cancellation was on its way already, with its own reason.
        """
        return self.run(self.operations.cancel(instance_id, reason))

    def terminate(self, instance_id: str, reason: str = "") -> None:
        """End the instance at once, whatever it is doing; its children too, unless they were abandoned."""
        self.run(self.operations.terminate(instance_id, reason))

    def restart(self, instance_id: str, new_id: bool | str = False, reason: str = "") -> str:
        """Run a finished instance again with its input: under its own id, a fresh one (True), or yours.

        Under its own id the finished run, its output and its history are replaced. The `reason` is in the
        new run's `state.reason` and in the first event of its history.
        """
        return self.run(self.operations.restart(instance_id, new_id, reason))

    def purge(
        self,
        instance_id: str | None = None,
        *,
        status: StatusFilter = None,
        name: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        prefix: str | None = None,
        tag: str | None = None,
        reason: str = "",
    ) -> int:
        """Remove a finished instance with its children, or all finished ones that meet the conditions.

        Returns how many instances were removed. Children are those of all its runs, and theirs; one that
        still runs stays.
        Nothing of what is removed stays in Redis, so the `reason` goes to the log (`celeriac.client`, INFO).
        """
        return self.run(
            self.operations.purging.purge(
                instance_id,
                status=status,
                name=name,
                created_from=created_from,
                created_to=created_to,
                prefix=prefix,
                tag=tag,
                reason=reason,
            )
        )

    # --- looking on ------------------------------------------------------------------------------

    def progress(self, instance_id: str, *, depth: int = 8) -> InstanceProgress:
        """What the instance is doing right now, with its children as a tree."""
        return self.run(self.operations.inspection.progress(instance_id, depth))

    def workers(self) -> Sequence[ProcessInfo]:
        """The living orchestrators, workers and listeners."""
        return self.run(self.operations.inspection.workers())

    def served(self) -> Served:
        """The names and versions that any process ever served."""
        return self.run(self.operations.inspection.served())

    # --- trigger queues --------------------------------------------------------------------------

    def queue_sizes(self, *queues: str) -> Sequence[QueueSizes]:
        """How many messages wait in the trigger queues and their poison queues."""
        return self.run(self.operations.queues.sizes(queues))

    def push(self, queue: str, message: Any) -> int:
        """Put a message (any JSON value) into a trigger queue; returns how many wait now."""
        return self.run(self.operations.queues.push(queue, message))

    def poison(self, queue: str, *, limit: int = 100) -> Sequence[PoisonMessage]:
        """The messages of a trigger queue that were given up, oldest first."""
        return self.run(self.operations.queues.poison(queue, limit))

    def redrive(self, queue: str, *, limit: int = 1000) -> int:
        """Put poison messages back into their queue with a fresh count of tries; returns how many."""
        return self.run(self.operations.queues.redrive(queue, limit))
