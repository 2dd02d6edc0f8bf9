"""What a client sees of an instance: frozen values, read once, never live.

`OrchestrationState` is a snapshot of one instance's record. Its payloads stay JSON text until somebody asks
for them: `input`, `output` and `custom_status` decode to plain JSON values, `output_as(type)` to a type.
Times are aware UTC datetimes, to the millisecond. `to_payload()` has the field names of the Durable Functions
status payload, which the CLI's `--json` and the HTTP API share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar, overload

from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import Attempt, CeleriacError, FailureDetails, SealedPayloadError

from ..sealing import FREE, PREFIX

T = TypeVar("T")


class Status(StrEnum):
    """The status of an instance; the names are those of Durable Functions."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETED = "Completed"
    FAILED = "Failed"
    TERMINATED = "Terminated"
    CANCELLED = "Cancelled"

    @property
    def is_final(self) -> bool:
        """True once nothing more will happen to the instance."""
        return self in FINAL


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.TERMINATED, Status.CANCELLED})


class OrchestrationFailedError(CeleriacError):
    """`raise_if_failed` or `result` met an instance that did not complete; `.state` is the instance."""

    def __init__(self, state: OrchestrationState) -> None:
        self.state = state
        details = state.failure
        why = f": {details.error_type}: {details.message}" if details else ""
        if state.reason and not details:
            why = f": {state.reason}"
        super().__init__(f"instance {state.id!r} ({state.name}) ended as {state.status.value}{why}")

    @property
    def details(self) -> FailureDetails | None:
        """The failure of the instance, when it has one."""
        return self.state.failure


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationState:
    """One instance as it was when it was read."""

    id: str
    name: str
    status: Status
    created_at: datetime
    updated_at: datetime
    version: str = ""
    input_text: str | None = None
    output_text: str | None = None
    custom_text: str | None = None
    failure: FailureDetails | None = None
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parent_id: str | None = None
    execution: str = ""
    run: int = 0
    history_length: int = 0
    waiting: str = ""
    reason: str = ""
    crashes: int = 0
    starts_at: datetime | None = None  # of a delayed start that has not come

    @property
    def input(self) -> Any:
        """What the instance was started with, as a plain JSON value."""
        return codec.decode(_open(self.input_text))

    @property
    def output(self) -> Any:
        """What the orchestrator returned, as a plain JSON value; None while it runs."""
        return codec.decode(_open(self.output_text))

    @property
    def custom_status(self) -> Any:
        """What the orchestrator last gave to `set_custom_status`."""
        return codec.decode(_open(self.custom_text))

    @overload
    def output_as(self, type_: type[T], /) -> T: ...
    @overload
    def output_as(self, type_: Any, /) -> Any: ...
    def output_as(self, type_: Any, /) -> Any:
        """The output rebuilt as `type_`: a dataclass, a Struct, `list[Item]`, ..."""
        return codec.decode(_open(self.output_text), type_)

    @overload
    def input_as(self, type_: type[T], /) -> T: ...
    @overload
    def input_as(self, type_: Any, /) -> Any: ...
    def input_as(self, type_: Any, /) -> Any:
        """The input rebuilt as `type_`."""
        return codec.decode(_open(self.input_text), type_)

    @property
    def is_final(self) -> bool:
        """True once the instance has ended, in whatever way."""
        return self.status.is_final

    @property
    def elapsed(self) -> timedelta:
        """From its creation to its last change."""
        return self.updated_at - self.created_at

    def raise_if_failed(self) -> OrchestrationState:
        """Return this state; raise OrchestrationFailedError if the instance ended other than Completed."""
        if self.is_final and self.status is not Status.COMPLETED:
            raise OrchestrationFailedError(self)
        return self

    def to_payload(self, *, show_input: bool = True) -> dict[str, Any]:
        """The fields of the HTTP status payload, as JSON values; times precise ISO 8601 in UTC."""
        payload: dict[str, Any] = {
            "instanceId": self.id,
            "name": self.name,
            "version": self.version,
            "runtimeStatus": self.status.value,
            "input": shown(self.input_text) if show_input else None,
            "output": shown(self.output_text),
            "customStatus": shown(self.custom_text),
            "createdTime": iso(self.created_at),
            "lastUpdatedTime": iso(self.updated_at),
            "tags": dict(self.tags),
            "parentInstanceId": self.parent_id,
            "failure": None if self.failure is None else failure_payload(self.failure),
            "historyLength": self.history_length,
        }
        if self.waiting:
            payload["waiting"] = self.waiting
        if self.starts_at:
            payload["startsAt"] = iso(self.starts_at)
        if self.reason:
            payload["reason"] = self.reason
        return payload


def shown(text: str | None) -> Any:
    """A payload as a plain JSON value; one that is sealed and has no key here is shown as `(sealed)`."""
    return FREE if text and text.startswith(PREFIX) else codec.decode(text)


def _open(text: str | None) -> str | None:
    if text and text.startswith(PREFIX):
        raise SealedPayloadError(
            "this value is sealed, and this process cannot open it; give it the CELERIAC_CODEC, and its "
            "keys, of the process that wrote it"
        )
    return text


def failure_payload(failure: FailureDetails) -> dict[str, Any]:
    """A failure as JSON values, named as in the payloads of Durable Functions; inner ones included."""
    return {
        "errorType": failure.error_type,
        "message": failure.message,
        "stackTrace": failure.stack_trace,
        "inner": None if failure.inner is None else failure_payload(failure.inner),
        "properties": codec.decode(codec.encode(failure.properties)),
        "attempts": [attempt_payload(attempt) for attempt in failure.attempts],
    }


def attempt_payload(attempt: Attempt) -> dict[str, Any]:
    """A failed attempt as JSON values; `delay` (ms until the next one) only where another followed."""
    payload: dict[str, Any] = {
        "number": attempt.number,
        "errorType": attempt.error_type,
        "message": attempt.message,
    }
    if attempt.at:
        payload["at"] = iso(moment(attempt.at))
    if attempt.delay:
        payload["delay"] = attempt.delay
    return payload


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, e.g. 2026-03-01T09:30:00.120Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(milliseconds: int) -> datetime:
    """The aware UTC datetime of a time as the store keeps it."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def millis(when: datetime) -> int:
    """The time as the store keeps it; a naive datetime is local time, as everywhere in Python."""
    return (when.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing: iterate over it; `cursor` asks for the next one, empty on the last."""

    items: list[T]
    cursor: str = ""

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
