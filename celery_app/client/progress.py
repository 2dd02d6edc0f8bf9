"""What `watch` shows: frozen values that say what an instance is doing right now, children included.

Which steps are open comes from the execution's open record; what they are called from the history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from celeriac.orchestrations.errors import Attempt

from .state import OrchestrationState, attempt_payload, iso, moment


class StepState(StrEnum):
    """Where an open activity is."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"  # parked until its next attempt


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ActivityProgress:
    """One open activity (of a group: only those running or parked are listed)."""

    seq: int
    name: str
    attempt: int
    state: StepState
    worker: str = ""  # the process that runs it, as in `workers()`
    since: datetime | None = None  # running since
    retry_at: datetime | None = None  # parked until
    failures: tuple[Attempt, ...] = ()  # the last ten failed attempts
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    progress: Any = None  # what its last heartbeat told


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupProgress:
    """A fan-out: how many of its parts are done."""

    seq: int
    name: str  # the activity all parts call; empty when they differ
    size: int
    done: int
    failed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TimerProgress:
    """An open durable timer."""

    seq: int
    due: datetime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstanceProgress:
    """One instance and, below it, the children it waits for."""

    state: OrchestrationState
    activities: tuple[ActivityProgress, ...] = ()
    groups: tuple[GroupProgress, ...] = ()
    timers: tuple[TimerProgress, ...] = ()
    children: tuple[InstanceProgress, ...] = ()

    def walk(self) -> Iterator[InstanceProgress]:
        """This instance and everything below it, depth first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def to_payload(self) -> dict[str, Any]:
        """The tree as JSON values."""
        return {
            **self.state.to_payload(),
            "activities": [_plain(activity) for activity in self.activities],
            "groups": [_plain(group) for group in self.groups],
            "timers": [_plain(timer) for timer in self.timers],
            "children": [child.to_payload() for child in self.children],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """One living process: an orchestrator, an activity worker or a trigger listener."""

    incarnation: str
    kind: str  # "orchestrator", "worker", "listener"
    lapses_at: datetime  # taken for dead if it has not beaten until then
    info: dict[str, Any]  # what it says about itself: host, pid, started, queues, ...

    def to_payload(self) -> dict[str, Any]:
        """As JSON values: names in camelCase, times in ISO 8601, `host` on its own for every kind."""
        info = {name: value for name, value in self.info.items() if name not in ("started", "hostname")}
        started, node = self.info.get("started"), self.info.get("hostname")
        if isinstance(started, int):
            info["startedAt"] = iso(moment(started))
        if isinstance(node, str):
            info["node"], info["host"] = node, node.rpartition("@")[2]
        return {
            **_camel(info),
            "incarnation": self.incarnation,
            "kind": self.kind,
            "lapsesAt": iso(self.lapses_at),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The names, with their versions, that any process of this hub ever served."""

    orchestrators: dict[str, tuple[str, ...]]
    activities: dict[str, tuple[str, ...]]


def _camel(value: Any) -> Any:
    """The same with every name in camelCase."""
    if isinstance(value, dict):
        return {_camel_name(str(name)): _camel(inner) for name, inner in value.items()}
    return value


def _camel_name(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(map(str.title, rest))


def _plain(value: Any) -> dict[str, Any]:
    """A flat value of this module as JSON values; what is not known is left out."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if content is None or content in ("", (), {}):
            continue
        if isinstance(content, datetime):
            content = iso(content)
        elif isinstance(content, tuple):
            content = [attempt_payload(attempt) for attempt in content]
        plain[_camel_name(field.name)] = content
    return plain
