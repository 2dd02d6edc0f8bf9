"""What a chaos run left: the dump of Redis and the logs, read from files, so that a kept folder can be
judged again.

The dump is msgpack, one `[key, type, milliseconds to live, value]` an entry: bytes as Redis holds them, a
hash and a sorted set as lists of pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import redis

from celeriac.celery_app.orchestrator.payloads import fields_of, join_chunks
from celeriac.celery_app.store import Keys
from celeriac.celery_app.store.payloads import unpack
from celeriac.orchestrations.history import AnyEvent, GroupScheduled, PartOutcome, decode_event

from .client import read_lines

_outcomes: Final = msgspec.json.Decoder(PartOutcome)

_READ: Final = {
    "string": lambda client, key: client.get(key),
    "list": lambda client, key: client.lrange(key, 0, -1),
    "set": lambda client, key: sorted(client.smembers(key)),
    "hash": lambda client, key: sorted(client.hgetall(key).items()),
    "zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
}


def write_dump(url: str, path: Path) -> None:
    """Every key of the database, once."""
    client: Any = redis.Redis.from_url(url)  # Any: redis-py types each reply as of both colours
    with client, path.open("wb") as file:
        found = []
        for key in sorted(set(client.scan_iter(count=1000))):
            type_ = client.type(key).decode()
            if type_ != "none":
                found.append([key, type_, client.pttl(key), _READ[type_](client, key)])
        file.write(msgspec.msgpack.encode(found))


class RunFacts(msgspec.Struct):
    """What the harness knows: how the run was made, and who lived at its end."""

    seed: int
    hub: str
    lease: float
    beat: float
    pids: list[int]  # main processes that lived when the dump was written
    settled: bool  # whether everything had ended in time
    waiting: list[str] = []  # what had not
    surprises: list[str] = []  # processes that ended by themselves, or not when asked to


@dataclass
class Evidence:
    """The dump, as plain Python values, and the logs."""

    facts: RunFacts
    keys: dict[str, tuple[str, int, Any]]  # key: (type, milliseconds to live or -1, value)
    effects: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    client: list[dict[str, Any]] = field(default_factory=list)
    lapses: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Evidence:
        """The evidence in a folder."""
        keys: dict[str, tuple[str, int, Any]] = {}
        for raw, type_, ttl, value in msgspec.msgpack.decode((folder / "dump.msgpack").read_bytes()):
            if type_ == "hash":
                value = {name.decode(): each for name, each in value}
            elif type_ == "zset":
                value = {member.decode(): score for member, score in value}
            keys[raw.decode()] = (type_, ttl, value)
        return cls(
            msgspec.json.decode((folder / "facts.json").read_bytes(), type=RunFacts),
            keys,
            *(
                list(read_lines(folder / f"{name}.jsonl"))
                for name in ("effects", "faults", "client", "lapses")
            ),
        )

    @property
    def names(self) -> Keys:
        """The names of the hub's keys."""
        return Keys(self.facts.hub)

    def value(self, key: str, empty: Any) -> Any:
        """What a key holds; `empty` if there is none."""
        return self.keys[key][2] if key in self.keys else empty

    def zset(self, name: str) -> dict[str, float]:
        """A sorted set of the hub."""
        return self.value(self.names.path(name), {})

    @cached_property
    def records(self) -> dict[str, dict[str, str]]:
        """Every instance record by id."""
        prefix = self.names.inst("")
        return {
            key.removeprefix(prefix): {
                name: each.decode() for name, each in value.items() if isinstance(each, bytes)
            }
            for key, (_, _, value) in self.keys.items()
            if key.startswith(prefix)
        }

    def history(self, instance: str) -> list[AnyEvent]:
        """The history of its last run."""
        return [decode_event(each) for each in self.value(self.names.hist(instance), [])]

    def payloads(self, execution: str, events: Sequence[AnyEvent]) -> DumpedPayloads:
        """What the history of this run refers to."""
        return DumpedPayloads(self.value(self.names.pay(execution), {}), events)

    def text(self, execution: str, payload: str | None) -> str | None:
        """The JSON text of a payload."""
        if payload is None:
            return None
        return self.payloads(execution, []).text(payload)

    @cached_property
    def runs(self) -> dict[tuple[str, int], list[dict[str, Any]]]:
        """Runs of activities by step (execution and seq), by the time of their beginning.

        Each is its first line, with `ended` ("done", "failed" or ""), `value` and `until` of its last.
        """
        begun: dict[str, dict[str, Any]] = {}
        for line in self.effects:
            if line["what"] == "begin":
                begun[line["run"]] = {**line, "ended": "", "until": None}
            else:
                begun[line["run"]] |= {"ended": line["what"], "until": line["at"], "value": line["value"]}
        steps: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        for run in sorted(begun.values(), key=lambda run: run["at"]):
            steps[run["execution"], run["seq"]].append(run)
        return dict(steps)

    def family(self, name: str) -> Iterator[tuple[str, Any]]:
        """The keys of a family: (last part, value)."""
        prefix = self.names.path(name)
        for key, (_, _, value) in self.keys.items():
            known = self.names.kind_of(key)
            if known is not None and known[0].name == name:
                yield key.removeprefix(prefix), value


class DumpedPayloads:
    """The core's `Payloads` over a payload hash of the dump."""

    def __init__(self, fields: dict[str, bytes], events: Sequence[AnyEvent]) -> None:
        self._fields = fields
        self._sizes = {event.seq: event.size for event in events if isinstance(event, GroupScheduled)}

    def text(self, ref: str, /) -> str:
        """See celeriac.orchestrations.run.Payloads."""
        if not ref.startswith("@"):
            return ref
        return join_chunks([unpack(self._fields[field]) for field in fields_of(ref)])

    def group(self, seq: int, /) -> list[PartOutcome]:
        """See celeriac.orchestrations.run.Payloads."""
        return [_outcomes.decode(self._fields[f"g{seq}:{n}"][1:]) for n in range(self._sizes[seq])]
