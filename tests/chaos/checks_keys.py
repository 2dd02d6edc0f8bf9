"""No key is left that belongs to nothing: what Redis may hold when everything has ended and the processes
live.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from .checks_work import FINAL, Finding
from .evidence import Evidence
from .workflows import QUEUE

STATUSES = ("Pending", "Running", "Suspended", *FINAL)
BINDINGS = "_kombu.binding"
EMPTY = ("ready", "timers", "deadlines", "parked", "parked_body", "closing", "aside")
NONE_LEFT = ("inbox", "control", "open", "claims", "flight", "trig", "again")


def check_keys(evidence: Evidence) -> Iterator[Finding]:
    """Every key of the database."""
    names = evidence.names
    for key, (type_, ttl, value) in evidence.keys.items():
        known = names.kind_of(key)
        if BINDINGS in key and type_ == "set":
            continue  # kombu's note of a queue that exists
        if key.startswith(f"{names.hub}:queue:") or key in (QUEUE, f"{QUEUE}-poison"):
            yield Finding("leak", key, f"a queue still holds {len(value)} messages: {value[0][:200]!r}")
        elif known is None:
            yield Finding("leak", key, "keys.py does not know it")
        elif type_ != known[0].type:
            yield Finding("leak", key, f"holds a {type_}, keys.py says {known[0].type}")
        elif known[0].name in EMPTY + NONE_LEFT:
            yield Finding("leak", key, f"is not empty: {list(value)[:3]!r:.300}")
        elif known[0].name == "idem" and ttl < 0:
            yield Finding("leak", key, "never expires")
        elif known[0].name in ("token", "wake") and len(value) > 64:
            yield Finding("leak", key, f"{len(value)} tokens")
    yield from _check_owners(evidence)
    yield from _check_records(evidence)
    yield from _check_indexes(evidence)
    yield from _check_processes(evidence)


def _check_owners(evidence: Evidence) -> Iterator[Finding]:
    for name in ("hist", "dedup"):
        for id, _ in evidence.family(name):
            if id not in evidence.records:
                yield Finding("leak", f"{name}:{id}", "its instance is gone")
    executions = {record["execution"] for record in evidence.records.values()}
    for execution, _ in evidence.family("pay"):
        if execution not in executions:
            yield Finding("leak", f"pay:{execution}", "no instance has this execution")


def _check_records(evidence: Evidence) -> Iterator[Finding]:
    for id, record in evidence.records.items():
        if record.get("claim") or record["stage"] != "0":
            claim = record.get("claim") or "nobody"
            yield Finding("leak", id, f"has ended at stage {record['stage']}, claimed by {claim}")
        for field in ("suspended", "delayed", "alone", "waiting"):
            if record.get(field):
                yield Finding("leak", id, f"has ended and is still {field}: {record[field]}")


def _check_indexes(evidence: Evidence) -> Iterator[Finding]:
    records = evidence.records
    wanted: dict[str, set[str]] = {"idx:created": set(records), "idx:id": set(records)}
    for id, record in records.items():
        wanted.setdefault(f"idx:status:{record['status']}", set()).add(id)
        wanted.setdefault(f"idx:name:{record['name']}", set()).add(id)
        for tag, value in json.loads(record["tags"]).items():
            wanted.setdefault(f"idx:tag:{tag}={value}", set()).add(id)
    hub = f"{evidence.names.hub}:"
    found = {
        key.removeprefix(hub): set(value)
        for key, (_, _, value) in evidence.keys.items()
        if key.startswith(f"{hub}idx:")
    }
    for index in sorted({*wanted, *found}):
        missing = wanted.get(index, set()) - found.get(index, set())
        extra = found.get(index, set()) - wanted.get(index, set())
        for id in sorted(missing):
            yield Finding("leak", index, f"{id} is missing")
        for id in sorted(extra):
            yield Finding("leak", index, f"{id} does not belong there")


def _check_processes(evidence: Evidence) -> Iterator[Finding]:
    """Only living processes are known, each under one name."""
    known = {name: json.loads(info)["pid"] for name, info in evidence.value(evidence.names.procs, {}).items()}
    beats = set(evidence.zset("beats"))
    for name in sorted(beats ^ set(known)):
        place = "beats" if name in beats else "procs"
        yield Finding("leak", name, f"an incarnation that only {place} knows")
    for name, pid in known.items():
        if pid not in evidence.facts.pids:
            yield Finding("leak", name, f"its process {pid} is dead")
