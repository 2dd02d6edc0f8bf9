"""The client for asyncio: the verbs of `Client`, to be awaited.

It has no logic of its own: the operations are the same (see driving.py). An `AsyncClient` belongs to the
event loop it is first used on; its waiters share the process' one subscription with everybody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar

from celeriac.orchestrations.history import AnyEvent
from celeriac.orchestrations.recording import Recording
from celeriac.orchestrations.registry import REGISTRY, Orchestrator, Registry

from ..settings import Settings
from ..store import AsyncStore
from ..store.endings import endings_of
from .driving import Operation, drive_async
from .operations import Operations
from .progress import InstanceProgress, ProcessInfo, Served
from .querying import StatusFilter
from .queues import PoisonMessage, QueueSizes
from .starting import OnConflict
from .state import OrchestrationState, Page
from .waiting import check_timeout, until_ended

__all__ = ["AsyncClient"]

I = TypeVar("I")  # noqa: E741  I for input, as in registry.py
R = TypeVar("R")


class AsyncClient:
    """All verbs, awaitable. Settings come from the environment unless given."""

    def __init__(
        self,
        redis_url: str | None = None,
        hub: str | None = None,
        *,
        settings: Settings | None = None,
        registry: Registry = REGISTRY,
        store: AsyncStore | None = None,
    ) -> None:
        self.settings = settings or Settings.load(redis_url=redis_url, hub=hub)
        self._owns_store = store is None
        self._store = store or AsyncStore.connect(self.settings)
        self.operations = Operations(self.settings, registry)

    async def close(self) -> None:
        """Close the connections that this client opened."""
        if self._owns_store:
            await self._store.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def run(self, operation: Operation[R]) -> R:
        """Run one operation; for the parts of Celeriac that add verbs, such as the HTTP API."""
        return await drive_async(self.operations.checked(operation), self._store, asyncio.sleep)

    # --- instances -------------------------------------------------------------------------------

    async def start(
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
        return await self.run(
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

    async def get(self, instance_id: str) -> OrchestrationState:
        """The instance as it is now; InstanceNotFoundError if there is none."""
        return await self.run(self.operations.get(instance_id))

    async def wait(self, instance_id: str, timeout: float | timedelta | None = None) -> OrchestrationState:
        """Wait until the instance has ended and return it; TimeoutError after `timeout` seconds."""
        seconds = check_timeout(timeout)
        state = await self.get(instance_id)
        if state.is_final:
            return state
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
                loop.call_soon_threadsafe(woken.set)

        async def pause(longest: float) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), longest)
            woken.clear()

        with endings_of(self.settings.redis_url).watch(self.operations.channel(instance_id), wake):
            ending = until_ended(instance_id, lambda: self.operations.get(instance_id), seconds)
            return await drive_async(ending, self._store, pause)

    async def history(self, instance_id: str) -> tuple[AnyEvent, ...]:
        """The history of the instance's current run, oldest event first."""
        return await self.run(self.operations.history(instance_id))

    async def record(self, instance_id: str) -> Recording:
        """See Client.record."""
        return await self.run(self.operations.record(instance_id))

    async def list(
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
        return await self.run(
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

    async def iterate(
        self,
        *,
        status: StatusFilter = None,
        name: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        prefix: str | None = None,
        tag: str | None = None,
    ) -> AsyncIterator[OrchestrationState]:
        """Every instance that meets the conditions, page after page."""
        cursor = ""
        while True:
            page = await self.list(
                status=status,
                name=name,
                created_from=created_from,
                created_to=created_to,
                prefix=prefix,
                tag=tag,
                cursor=cursor,
            )
            for state in page:
                yield state
            cursor = page.cursor
            if not cursor:
                return

    # --- commands --------------------------------------------------------------------------------

    async def raise_event(
        self, instance_id: str, name: str, data: Any = None, *, dedup_key: str | None = None
    ) -> None:
        """Send an event to a running instance; with a `dedup_key`, once however often this is called."""
        await self.run(self.operations.raise_event(instance_id, name, data, dedup_key=dedup_key))

    async def suspend(self, instance_id: str, reason: str = "") -> bool:
        """Stop applying anything but resume, cancel and terminate. False: it was suspended already."""
        return await self.run(self.operations.suspend(instance_id, reason))

    async def resume(self, instance_id: str, reason: str = "") -> bool:
        """Let a suspended instance go on. False: it was not suspended, and nothing changed."""
        return await self.run(self.operations.resume(instance_id, reason))

    async def cancel(self, instance_id: str, reason: str = "") -> bool:
        """Raise OrchestrationCancelledError in the orchestrator, so that its code can compensate.

        False: a cancellation was on its way already, with its own reason.
        """
        return await self.run(self.operations.cancel(instance_id, reason))

    async def terminate(self, instance_id: str, reason: str = "") -> None:
        """End the instance at once, whatever it is doing; its children too, unless they were abandoned."""
        await self.run(self.operations.terminate(instance_id, reason))

    async def restart(self, instance_id: str, new_id: bool | str = False, reason: str = "") -> str:
        """Run a finished instance again with its input: under its own id, a fresh one (True), or yours.

        Under its own id the finished run, its output and its history are replaced. The `reason` is in the
        new run's `state.reason` and in the first event of its history.
        """
        return await self.run(self.operations.restart(instance_id, new_id, reason))

    async def purge(
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
        return await self.run(
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

    async def progress(self, instance_id: str, *, depth: int = 8) -> InstanceProgress:
        """What the instance is doing right now, with its children as a tree."""
        return await self.run(self.operations.inspection.progress(instance_id, depth))

    async def workers(self) -> Sequence[ProcessInfo]:
        """The living orchestrators, workers and listeners."""
        return await self.run(self.operations.inspection.workers())

    async def served(self) -> Served:
        """The names and versions that any process ever served."""
        return await self.run(self.operations.inspection.served())

    # --- trigger queues --------------------------------------------------------------------------

    async def queue_sizes(self, *queues: str) -> Sequence[QueueSizes]:
        """How many messages wait in the trigger queues and their poison queues."""
        return await self.run(self.operations.queues.sizes(queues))

    async def push(self, queue: str, message: Any) -> int:
        """Put a message (any JSON value) into a trigger queue; returns how many wait now."""
        return await self.run(self.operations.queues.push(queue, message))

    async def poison(self, queue: str, *, limit: int = 100) -> Sequence[PoisonMessage]:
        """The messages of a trigger queue that were given up, oldest first."""
        return await self.run(self.operations.queues.poison(queue, limit))

    async def redrive(self, queue: str, *, limit: int = 1000) -> int:
        """Put poison messages back into their queue with a fresh count of tries; returns how many."""
        return await self.run(self.operations.queues.redrive(queue, limit))
