"""Every key of the store: its name, type, owner and life.

Nothing else builds a key: Python asks `Keys(hub)`, and a script names the keys it needs in its
`-- keys:` line and gets them from here (a family of keys as a prefix, see docs/decisions/001).
`KEYS` is the table that the documentation is checked against and the residue checker of the tests reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["KEYS", "Keys", "Kind"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One key, or one family of keys that differ in their last part."""

    name: str  # what scripts call it
    path: str  # behind the hub
    type: str  # of Redis; "channel" for publish/subscribe
    owner: str  # whose end is its end: instance, execution, process, queue, hub
    life: str  # what removes it, or an entry of it
    family: bool = False  # more follows the path


def _family(name: str, path: str, type_: str, owner: str, life: str) -> Kind:
    return Kind(name, path, type_, owner, life, family=True)


KEYS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _family("inst", "inst:", "hash", "instance", "purge"),
        _family("hist", "hist:", "list", "instance", "purge, continue-as-new"),
        _family("inbox", "inbox:", "list", "instance", "commit, end"),
        _family("control", "control:", "list", "instance", "commit, end"),
        _family("dedup", "dedup:", "set", "instance", "purge"),
        _family("below", "below:", "set", "instance", "purge; a child's entry with the child"),
        _family("open", "open:", "hash", "execution", "end of the execution"),
        _family("pay", "pay:", "hash", "execution", "purge, continue-as-new"),
        Kind("ready", "ready", "zset", "hub", "claim, end"),
        Kind("wake", "wake", "list", "hub", "64 at most"),
        _family("claims", "claims:", "set", "process", "commit, release, sweep"),
        Kind("timers", "timers", "zset", "hub", "fire, cancel, end"),
        Kind("deadlines", "deadlines", "zset", "hub", "outcome, end"),
        Kind("parked", "parked", "zset", "hub", "promotion, outcome, end"),
        Kind("parked_body", "parked:body", "hash", "hub", "with its entry in parked"),
        Kind("beats", "beats", "zset", "hub", "second empty sweep"),
        Kind("heard", "heard", "hash", "hub", "never"),
        Kind("procs", "procs", "hash", "hub", "first empty sweep"),
        _family("flight", "flight:", "hash", "process", "ack, give-back, sweep"),
        Kind("pushed", "pushed", "hash", "hub", "never"),
        _family("token", "token:", "list", "queue", "64 at most"),
        Kind("aside", "aside", "list", "hub", "1,000 at most"),
        Kind("audit", "audit", "hash", "hub", "never"),
        Kind("mended", "mended", "hash", "hub", "never"),
        Kind("closing", "closing", "list", "hub", "sweep"),
        Kind("idx_created", "idx:created", "zset", "hub", "purge"),
        Kind("idx_id", "idx:id", "zset", "hub", "purge"),
        _family("idx_status", "idx:status:", "zset", "hub", "status change"),
        _family("idx_name", "idx:name:", "zset", "hub", "purge"),
        _family("idx_tag", "idx:tag:", "zset", "hub", "purge"),
        _family("idem", "idem:", "string", "hub", "24 h"),
        Kind("served", "served", "hash", "hub", "never"),
        _family("trig", "trig:", "hash", "process", "start, give-back, sweep"),
        _family("again", "again:", "list", "queue", "the next take"),
        Kind("room", "room", "string", "hub", "never"),
        Kind("schema", "schema", "string", "hub", "never"),
        _family("ended", "ended:", "channel", "instance", "not stored"),
    )
}

_HUB = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Keys:
    """The keys of one hub. `keys.ready`, `keys.inst("order-1")`."""

    __slots__ = ("_paths", "heads", "hub")

    def __init__(self, hub: str = "celeriac") -> None:
        if not _HUB.fullmatch(hub):
            raise ValueError(f"the hub must be 1-64 of letters, digits, '_', '.' and '-', not {hub!r}")
        self.hub = hub
        self._paths = {name: f"{hub}:{kind.path}" for name, kind in KEYS.items()}
        self.heads: dict[str, tuple[Any, ...]] = {}  # of calls, by script: see scripts.py

    def path(self, name: str) -> str:
        """The key called `name` in scripts, or the prefix of that family."""
        return self._paths[name]

    def of(self, name: str, part: str) -> str:
        """One key of the family `name`."""
        if not KEYS[name].family:
            raise KeyError(f"{name} is one key, not a family: use path({name!r})")
        return self._paths[name] + part

    def kind_of(self, key: str) -> tuple[Kind, str] | None:
        """What a key of this hub is, and its last part; None if the store does not know it."""
        if not key.startswith(self.hub + ":"):
            return None
        rest = key[len(self.hub) + 1 :]
        for kind in KEYS.values():
            if not kind.family and rest == kind.path:
                return kind, ""
        for kind in KEYS.values():
            if kind.family and rest.startswith(kind.path):
                return kind, rest[len(kind.path) :]
        return None

    def inst(self, instance: str) -> str:
        """The instance record."""
        return self._paths["inst"] + instance

    def hist(self, instance: str) -> str:
        """The history."""
        return self._paths["hist"] + instance

    def inbox(self, instance: str) -> str:
        """Outside events not yet applied."""
        return self._paths["inbox"] + instance

    def below(self, instance: str) -> str:
        """The children of an instance that are still there, those of all its runs."""
        return self._paths["below"] + instance

    def open(self, execution: str) -> str:
        """Open steps and groups."""
        return self._paths["open"] + execution

    def pay(self, execution: str) -> str:
        """Payloads put aside and outcomes of group parts."""
        return self._paths["pay"] + execution

    def flight(self, incarnation: str) -> str:
        """Messages a worker has taken and not acknowledged."""
        return self._paths["flight"] + incarnation

    def claims(self, incarnation: str) -> str:
        """Instances an orchestrator process has claimed."""
        return self._paths["claims"] + incarnation

    def token(self, queue: str) -> str:
        """Tokens that wake the consumers of a queue; `queue` without priority suffix."""
        return self._paths["token"] + queue

    def ended(self, instance: str) -> str:
        """The channel on which the end of an instance is published."""
        return self._paths["ended"] + instance

    @property
    def ready(self) -> str:
        """Instances by the time from which they may be claimed."""
        return self._paths["ready"]

    @property
    def wake(self) -> str:
        """Tokens that wake orchestrators."""
        return self._paths["wake"]

    @property
    def timers(self) -> str:
        """Durable timers and delayed starts."""
        return self._paths["timers"]

    @property
    def deadlines(self) -> str:
        """Deadlines of activity attempts."""
        return self._paths["deadlines"]

    @property
    def parked(self) -> str:
        """Messages that wait for their time."""
        return self._paths["parked"]

    @property
    def parked_body(self) -> str:
        """The bodies of parked messages."""
        return self._paths["parked_body"]

    @property
    def beats(self) -> str:
        """Process incarnations by the time their beat lapses."""
        return self._paths["beats"]

    @property
    def procs(self) -> str:
        """What each process says about itself."""
        return self._paths["procs"]

    @property
    def closing(self) -> str:
        """Bounded work left by ended executions."""
        return self._paths["closing"]

    @property
    def served(self) -> str:
        """Names and versions that any process ever served."""
        return self._paths["served"]

    @property
    def schema(self) -> str:
        """The number of the newest schema that used this hub."""
        return self._paths["schema"]
