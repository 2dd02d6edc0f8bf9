"""Every verb of the client, written once: check, build the call, read the reply (see driving.py).

`Operations` belongs to one client. Threads may share it: it holds settings, and whether
this Redis has been found suitable.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from celeriac.orchestrations.errors import (
    InstanceNotFoundError,
    InvalidArgumentError,
)
from celeriac.orchestrations.history import AnyEvent, EventRaised, ExecutionStarted, decode_event
from celeriac.orchestrations.recording import Recording
from celeriac.orchestrations.registry import Registry

from ..sealing import Seal
from ..settings import Settings
from ..store import GoneError, Keys, instances, payloads, server, views
from ..store.records import InstanceRecord, StartReply
from . import recorder
from . import validation as check
from .driving import Operation, ask, ask_all, resumed
from .inspection import Inspection
from .purging import Purging
from .querying import StatusFilter, query_of
from .queues import Queues
from .starting import OnConflict, Orchestrator, Starting
from .state import OrchestrationState, Page, Status, moment

R = TypeVar("R")

CHUNK = 1000  # history events read at once


class Operations:
    """The verbs. Each method makes an operation; nothing happens until a driver runs it."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.keys = Keys(settings.hub)
        self._suitable = False  # not yet known
        self.starting = Starting(settings, registry, lambda: self.inspection.served())
        self._seal = self.starting.seal
        self._reading = self._seal.reading  # what it only shows may stay sealed
        self.inspection = Inspection(self.keys, self.get, self._reading)
        self.queues = Queues(self.keys, settings, self.starting)
        self.purging = Purging(self.keys)

    def checked(self, operation: Operation[R]) -> Operation[R]:
        """The operation; the first one of a client first makes sure that this Redis may be used at all.

        What the operation refuses without asking Redis comes before that.
        """
        if self._suitable:
            return (yield from operation)
        try:
            request = next(operation)
        except StopIteration as done:
            return done.value
        found = server.check_server((yield from ask(server.info())))
        server.ensure_suitable(found, self.settings.redis_url)
        yield from ask(server.note_schema(self.keys))
        self._suitable = True
        return (yield from resumed(operation, request))

    def channel(self, instance_id: str) -> str:
        """Where the end of the instance is published."""
        return self.keys.ended(instance_id)

    # --- start -----------------------------------------------------------------------------------

    def start(
        self,
        orchestrator: Orchestrator,
        input: Any = None,
        *,
        instance_id: str | None = None,
        idempotency_key: str | None = None,
        start_at: datetime | timedelta | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        on_conflict: OnConflict = "fail",
    ) -> Operation[str]:
        """See Client.start."""
        request = yield from self.starting.request(
            orchestrator,
            input,
            instance_id=instance_id,
            idempotency_key=idempotency_key,
            start_at=start_at,
            version=version,
            tags=tags,
            on_conflict=on_conflict,
        )
        reply: StartReply = yield from ask(instances.start(self.keys, request))
        return reply.instance

    # --- look ------------------------------------------------------------------------------------

    def get(self, instance_id: str) -> Operation[OrchestrationState]:
        """See Client.get."""
        record: InstanceRecord = yield from ask(views.get(self.keys, check.check_id(instance_id)))
        texts = yield from self._texts([record])
        return _state(record, texts, self._reading)

    def history(self, instance_id: str) -> Operation[tuple[AnyEvent, ...]]:
        """See Client.history."""
        return (yield from self._history(instance_id, self._reading))

    def _history(self, instance_id: str, seal: Seal) -> Operation[tuple[AnyEvent, ...]]:
        yield from ask(views.get(self.keys, check.check_id(instance_id)))
        events: list[AnyEvent] = []
        while True:
            chunk = yield from ask(
                views.history(self.keys, instance_id, len(events), len(events) + CHUNK - 1)
            )
            events += map(seal.decode, chunk)
            if len(chunk) < CHUNK:
                return tuple(events)

    def record(self, instance_id: str) -> Operation[Recording]:
        """See Client.record."""
        events = yield from self._history(instance_id, self._seal)
        return (yield from recorder.record(self.keys, events, self._seal))

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
    ) -> Operation[Page[OrchestrationState]]:
        """See Client.list."""
        if not 1 <= limit <= 1000:
            raise InvalidArgumentError(f"limit is 1 to 1000, not {limit}")
        query = query_of(status, name, created_from, created_to, prefix, tag)
        found: list[InstanceRecord] = []
        while True:
            page = yield from ask(views.list_instances(self.keys, query, limit - len(found), cursor))
            found += yield from self._records([summary.instance for summary in page.items])
            cursor = page.cursor
            # A page of the store may be short, even empty, because the work for one is bounded.
            if not cursor or len(found) >= limit:
                break
        texts = yield from self._texts(found)
        return Page([_state(record, texts, self._reading) for record in found], cursor)

    def _records(self, ids: Sequence[str]) -> Operation[list[InstanceRecord]]:
        """The records of these instances; one purged meanwhile is left out."""
        if not ids:
            return []
        try:
            return (yield from ask_all([views.get(self.keys, i) for i in ids]))
        except InstanceNotFoundError:
            records: list[InstanceRecord] = []
            for i in ids:
                try:
                    records.append((yield from ask(views.get(self.keys, i))))
                except InstanceNotFoundError:
                    continue
            return records

    def _texts(self, records: Sequence[InstanceRecord]) -> Operation[dict[tuple[str, str], str]]:
        """The payloads that these records refer to, by execution and reference."""
        wanted: list[tuple[str, list[str]]] = []
        for record in records:
            refs = [t for t in (_input(record), record.output, record.custom) if t and t.startswith("@")]
            if refs:
                wanted.append((record.execution, refs))
        texts: dict[tuple[str, str], str] = {}
        for execution, refs in wanted:
            try:
                blobs = yield from ask(payloads.fetch(self.keys, execution, [ref[1:] for ref in refs]))
            except GoneError:
                continue  # replaced or purged since its record was read
            texts |= {
                (execution, ref): self._reading.unpack(blob) for ref, blob in zip(refs, blobs, strict=True)
            }
        return texts

    # --- commands --------------------------------------------------------------------------------

    def raise_event(
        self, instance_id: str, name: str, data: Any = None, *, dedup_key: str | None = None
    ) -> Operation[None]:
        """See Client.raise_event."""
        check.check_id(instance_id)
        check.check_name(name, "event name", check.MAX_EVENT_NAME)
        if dedup_key:
            check.check_name(dedup_key, "dedup key")
        text, aside = self.starting.put_aside(data, f"data of event {name!r}", f"pe{secrets.token_hex(6)}")
        event = self._seal.open_text(EventRaised(name=name, input=text))
        yield from ask(instances.raise_event(self.keys, instance_id, event, dedup_key or "", aside))

    def _reason(self, reason: str) -> str:
        return self._seal.note(check.check_reason(reason))

    def suspend(self, instance_id: str, reason: str = "") -> Operation[bool]:
        """See Client.suspend."""
        check.check_id(instance_id)
        return (yield from ask(instances.suspend(self.keys, instance_id, self._reason(reason))))

    def resume(self, instance_id: str, reason: str = "") -> Operation[bool]:
        """See Client.resume."""
        check.check_id(instance_id)
        return (yield from ask(instances.resume(self.keys, instance_id, self._reason(reason))))

    def cancel(self, instance_id: str, reason: str = "") -> Operation[bool]:
        """See Client.cancel."""
        check.check_id(instance_id)
        return (yield from ask(instances.cancel(self.keys, instance_id, self._reason(reason))))

    def terminate(self, instance_id: str, reason: str = "") -> Operation[None]:
        """See Client.terminate."""
        yield from ask(instances.terminate(self.keys, check.check_id(instance_id), self._reason(reason)))

    def restart(self, instance_id: str, new_id: bool | str = False, reason: str = "") -> Operation[str]:
        """See Client.restart."""
        check.check_id(instance_id)
        target = instance_id
        if isinstance(new_id, str):
            target = check.check_id(new_id)
        elif new_id:
            target = secrets.token_hex(16)
        reply = yield from ask(instances.restart(self.keys, instance_id, target, self._reason(reason)))
        return reply.instance


def _input(record: InstanceRecord) -> str | None:
    if record.started is None:
        return None
    started = decode_event(record.started)
    return started.input if isinstance(started, ExecutionStarted) else None


def _state(record: InstanceRecord, texts: Mapping[tuple[str, str], str], seal: Seal) -> OrchestrationState:
    def text(value: str | None) -> str | None:
        if not value or not value.startswith("@"):
            return value and seal.clear(value)
        return texts.get((record.execution, value))

    return OrchestrationState(
        id=record.instance,
        name=record.name,
        status=Status(record.status),
        created_at=moment(record.created),
        updated_at=moment(record.updated),
        version=record.version,
        input_text=text(_input(record)),
        output_text=text(record.output),
        custom_text=text(record.custom),
        failure=seal.read_failure(record.failure) if record.failure else None,
        tags=record.tags,
        parent_id=record.parent or None,
        execution=record.execution,
        run=record.run,
        history_length=record.history_length,
        waiting=seal.told(record.waiting),
        reason=seal.told(record.reason),
        crashes=record.crashes,
        starts_at=moment(record.start_at) if record.start_at else None,
    )
