"""Every verb of the client, written once: check, build the call, read the reply (see driving.py).

`Operations` belongs to one client. Threads may share it: it holds settings, and whether
this Redis has been found suitable.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

import msgspec

from celeriac.orchestrations.errors import (
    FailureDetails,
    InstanceNotEndedError,
    InstanceNotFoundError,
    InvalidArgumentError,
)
from celeriac.orchestrations.history import (
    AnyEvent,
    EventRaised,
    ExecutionStarted,
    SubOrchestrationInstanceCreated,
    decode_event,
)
from celeriac.orchestrations.recording import Recording
from celeriac.orchestrations.registry import Registry

from ..settings import Settings
from ..store import GoneError, Keys, instances, payloads, server, views
from ..store.records import InstanceRecord, Query, StartReply, open_text
from . import recorder
from . import validation as check
from .driving import Operation, ask, ask_all, resumed
from .inspection import Inspection
from .queues import Queues
from .starting import OnConflict, Orchestrator, Starting
from .state import FINAL, OrchestrationState, Page, Status, millis, moment

StatusFilter: TypeAlias = "Status | str | Iterable[Status | str] | None"

R = TypeVar("R")

CHUNK = 1000  # history events read at once
PURGE_CHUNK = 100

_failures = msgspec.json.Decoder(FailureDetails)


class Operations:
    """The verbs. Each method makes an operation; nothing happens until a driver runs it."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.keys = Keys(settings.hub)
        self._suitable = False  # not yet known
        self.inspection = Inspection(self.keys, self.get)
        self.starting = Starting(settings, registry, self.inspection.served)
        self.queues = Queues(self.keys, settings, self.starting)

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
        server.ensure_suitable(server.check_server((yield from ask(server.info()))))
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
        return _state(record, texts)

    def history(self, instance_id: str) -> Operation[tuple[AnyEvent, ...]]:
        """See Client.history."""
        yield from ask(views.get(self.keys, check.check_id(instance_id)))
        events: list[AnyEvent] = []
        while True:
            chunk = yield from ask(
                views.history(self.keys, instance_id, len(events), len(events) + CHUNK - 1)
            )
            events += map(decode_event, chunk)
            if len(chunk) < CHUNK:
                return tuple(events)

    def record(self, instance_id: str) -> Operation[Recording]:
        """See Client.record."""
        events = yield from self.history(instance_id)
        return (yield from recorder.record(self.keys, events))

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
        query = _query(status, name, created_from, created_to, prefix, tag)
        found: list[InstanceRecord] = []
        while True:
            page = yield from ask(views.list_instances(self.keys, query, limit - len(found), cursor))
            found += yield from self._records([summary.instance for summary in page.items])
            cursor = page.cursor
            # A page of the store may be short, even empty, because the work for one is bounded.
            if not cursor or len(found) >= limit:
                break
        texts = yield from self._texts(found)
        return Page([_state(record, texts) for record in found], cursor)

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
            texts |= {(execution, ref): payloads.unpack(blob) for ref, blob in zip(refs, blobs, strict=True)}
        return texts

    # --- commands --------------------------------------------------------------------------------

    def raise_event(
        self, instance_id: str, name: str, data: Any = None, *, dedup_key: str | None = None
    ) -> Operation[None]:
        """See Client.raise_event."""
        check.check_id(instance_id)
        check.check_name(name, "event name")
        if dedup_key:
            check.check_name(dedup_key, "dedup key")
        text, aside = self.starting.put_aside(data, f"data of event {name!r}", f"pe{secrets.token_hex(6)}")
        event = open_text(EventRaised(name=name, input=text))
        yield from ask(instances.raise_event(self.keys, instance_id, event, dedup_key or "", aside))

    def suspend(self, instance_id: str, reason: str = "") -> Operation[None]:
        """See Client.suspend."""
        yield from ask(instances.suspend(self.keys, check.check_id(instance_id), check.check_reason(reason)))

    def resume(self, instance_id: str, reason: str = "") -> Operation[None]:
        """See Client.resume."""
        yield from ask(instances.resume(self.keys, check.check_id(instance_id), check.check_reason(reason)))

    def cancel(self, instance_id: str, reason: str = "") -> Operation[None]:
        """See Client.cancel."""
        yield from ask(instances.cancel(self.keys, check.check_id(instance_id), check.check_reason(reason)))

    def terminate(self, instance_id: str, reason: str = "") -> Operation[None]:
        """See Client.terminate."""
        yield from ask(
            instances.terminate(self.keys, check.check_id(instance_id), check.check_reason(reason))
        )

    def restart(self, instance_id: str, new_id: bool | str = False) -> Operation[str]:
        """See Client.restart."""
        check.check_id(instance_id)
        target = instance_id
        if isinstance(new_id, str):
            target = check.check_id(new_id)
        elif new_id:
            target = secrets.token_hex(16)
        reply = yield from ask(instances.restart(self.keys, instance_id, target))
        return reply.instance

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
    ) -> Operation[int]:
        """See Client.purge."""
        conditions = (status, name, created_from, created_to, prefix, tag)
        if instance_id is not None:
            if any(condition is not None for condition in conditions):
                raise InvalidArgumentError("purge takes an instance id or conditions, not both")
            return (yield from self._purge_one(check.check_id(instance_id)))
        if all(condition is None for condition in conditions):
            raise InvalidArgumentError(
                "purge wants an instance id or at least one condition (status, name, created_from, "
                "created_to, prefix, tag); to remove every finished instance, name the statuses"
            )
        query = _query(status, name, created_from, created_to, prefix, tag)
        final = tuple(s for s in query.status or sorted(FINAL) if s in FINAL)
        if not final:
            raise InvalidArgumentError(
                f"only finished instances can be purged, not {', '.join(query.status)}"
            )
        return (yield from self._purge_all(msgspec.structs.replace(query, status=final)))

    def _purge_one(self, instance_id: str) -> Operation[int]:
        """Children first, so that an interrupted purge can be repeated. A child that still runs stays."""
        record = yield from ask(views.get(self.keys, instance_id))
        removed = 0
        if Status(record.status).is_final:
            for child in (yield from self._children(instance_id)):
                try:
                    below = yield from ask(views.get(self.keys, child))
                    if below.parent == instance_id and Status(below.status).is_final:
                        removed += yield from self._purge_one(child)
                except InstanceNotFoundError:
                    continue
        removed += yield from ask(instances.purge(self.keys, instance_id))
        return removed

    def _children(self, instance_id: str) -> Operation[list[str]]:
        """Those of the current run: the history of a run before a continue-as-new is gone."""
        events = yield from self.history(instance_id)
        return [e.instance for e in events if isinstance(e, SubOrchestrationInstanceCreated)]

    def _purge_all(self, query: Query) -> Operation[int]:
        removed, cursor = 0, ""
        while True:
            page = yield from ask(views.list_instances(self.keys, query, cursor=cursor, limit=PURGE_CHUNK))
            for summary in page.items:
                try:
                    removed += yield from self._purge_one(summary.instance)
                except (InstanceNotFoundError, InstanceNotEndedError):
                    continue  # purged with its parent, or started anew, meanwhile
            cursor = page.cursor
            if not cursor:  # a page may be empty and yet have more after it
                return removed


def _statuses(status: StatusFilter) -> tuple[Status, ...]:
    if status is None:
        return ()
    given = [status] if isinstance(status, str) else list(status)
    by_name = {s.value.lower(): s for s in Status} | {"canceled": Status.CANCELLED}
    for one in given:
        if str(one).lower() not in by_name:
            raise InvalidArgumentError(
                f"no status {str(one)!r}; there are {', '.join(s.value for s in Status)}"
            )
    return tuple(dict.fromkeys(by_name[str(one).lower()] for one in given))


def _query(
    status: StatusFilter,
    name: str | None,
    created_from: datetime | None,
    created_to: datetime | None,
    prefix: str | None,
    tag: str | None,
) -> Query:
    for what, when in (("created_from", created_from), ("created_to", created_to)):
        if when is not None and not isinstance(when, datetime):
            raise InvalidArgumentError(f"{what} is a datetime, not {type(when).__name__}")
    if tag is not None and "=" not in tag:
        raise InvalidArgumentError(f"a tag condition is written key=value, not {tag!r}")
    return Query(
        status=tuple(s.value for s in _statuses(status)),
        name=name or "",
        created_from=0 if created_from is None else millis(created_from),
        created_to=0 if created_to is None else millis(created_to),
        prefix=prefix or "",
        tag=tag or "",
    )


def _input(record: InstanceRecord) -> str | None:
    if record.started is None:
        return None
    started = decode_event(record.started)
    return started.input if isinstance(started, ExecutionStarted) else None


def _state(record: InstanceRecord, texts: Mapping[tuple[str, str], str]) -> OrchestrationState:
    def text(value: str | None) -> str | None:
        return texts.get((record.execution, value)) if value and value.startswith("@") else value

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
        failure=_failures.decode(record.failure) if record.failure else None,
        tags=record.tags,
        parent_id=record.parent or None,
        execution=record.execution,
        run=record.run,
        history_length=record.history_length,
        waiting=record.waiting,
        reason=record.reason,
        crashes=record.crashes,
        starts_at=moment(record.start_at) if record.start_at else None,
    )
