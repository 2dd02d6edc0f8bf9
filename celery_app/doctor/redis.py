"""What `celeriac doctor` looks at in Redis itself: release, durability, clock, and who else uses it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from celeriac.orchestrations.errors import CeleriacError

from ..settings import Settings
from ..store import Store, command, server
from .report import Report

__all__ = [
    "check_clock",
    "check_durability",
    "check_neighbours",
    "check_schema",
    "check_server",
    "note_facts",
]

MOST_SKEW: Final = 2.0  # seconds between Redis' clock and ours
MOST_LOOKED_AT: Final = 10_000  # keys of a database that others may have filled
MOST_TYPES: Final = 1000  # of them asked for their type
BINDING: Final = re.compile(r"_kombu\.binding(?:_permanent)?\.(.*)")


def note_facts(report: Report, store: Store, info: Mapping[str, Any]) -> None:
    """What Redis says about itself."""
    report.facts["Redis"] = {
        "server": f"{info.get('server_name') or 'redis'} {info.get('redis_version')}",
        "role": info.get("role"),
        "up": f"{int(info.get('uptime_in_seconds', 0))} s",
        "memory": f"{info.get('used_memory_human')} of {info.get('maxmemory_human')} (0B: no limit)",
        "policy": info.get("maxmemory_policy"),
        "append-only file": "on" if info.get("aof_enabled") else "off",
        "clients": info.get("connected_clients"),
        "keys": store.client.dbsize(),
    }


def check_server(report: Report, info: Mapping[str, Any]) -> None:
    """Version, role, policy, durability: what a process looks at when it starts."""
    findings = server.check_server(info)
    for finding in findings:
        report.add(finding.name, "refuse" if finding.level == "refuse" else "warn", finding.text)
    if not any(finding.level == "refuse" for finding in findings):
        report.add("server", "ok", "version, role and eviction policy fit")


def check_schema(report: Report, store: Store) -> None:
    """Only looked at: a client or process would note its own."""
    noted = store.run(command("GET", store.keys.schema, decode=lambda reply: int(reply or 0)))
    if noted > server.SCHEMA:
        text = (
            f"a newer Celeriac used hub {store.keys.hub!r} (schema {noted}, this one knows {server.SCHEMA})"
        )
        report.add("schema", "refuse", f"{text}; upgrade this installation, or use another hub")
    else:
        report.add("schema", "ok", f"schema {noted}" if noted else "this hub was not used so far")


def check_durability(report: Report, store: Store, info: Mapping[str, Any]) -> None:
    """How soon what was accepted is on disk."""
    if not info.get("aof_enabled"):
        return  # check_server says so
    try:
        found = store.run(command("CONFIG", "GET", "appendfsync"))
    except CeleriacError:  # managed Redis forbids CONFIG; that is a fact, not a failure
        found = None
    if not found:
        report.add("appendfsync", "ok", "not readable here; ask whoever runs this Redis")
        return
    text = found[1].decode()
    if text == "no":
        report.add(
            "appendfsync", "warn", "appendfsync is no: a power cut may lose 30 s of work; use everysec"
        )
    else:
        report.add("appendfsync", "ok", f"appendfsync is {text}")


def check_clock(report: Report, store: Store) -> None:
    """Redis' clock beside ours."""
    before = time.time()
    seconds, micros = store.client.time()
    skew = seconds + micros / 1e6 - (before + time.time()) / 2
    if abs(skew) > MOST_SKEW:
        text = (
            f"the clock of Redis is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
        )
        report.add("clock", "warn", f"{text}; timers go by Redis', logs by this one; run NTP on both")
    else:
        report.add("clock", "ok", f"Redis and this machine agree within {MOST_SKEW:g} s")


def check_neighbours(
    report: Report, settings: Settings, store: Store, info: Mapping[str, Any], ours: Iterable[str]
) -> None:
    """Who else uses this Redis: other Celery apps in our database, other keys, other databases.

    `ours` are the queues of this hub. Looks at no more than MOST_LOOKED_AT keys.
    """
    queues = {settings.queue, *ours}
    keys, cut = _keys(store)
    others = [key for key in keys if not _is_ours(key, settings, queues)]
    bindings = sorted({match[1] for key in others if (match := BINDING.fullmatch(key))})
    # Remote control and events: a worker of ours that was started by `celery -A` may have bound them.
    foreign = [name for name in bindings if not name.endswith((".pidbox", "celeryev"))]
    if foreign:
        shown = ", ".join(map(repr, foreign[:5]))
        text = f"another Celery application uses this database (queues {shown}); it could take our messages"
        report.add("neighbours", "warn", f"{text}; give each a database of its own")
    else:
        looked = f" among the first {MOST_LOOKED_AT:,} keys" if cut else ""
        report.add("neighbours", "ok", f"no other Celery application in this database{looked}")
    unbound = [key for key in others if not BINDING.fullmatch(key)]
    _check_limit(report, settings, store, info, _strangers(store, unbound, set(bindings)))


def _keys(store: Store) -> tuple[list[str], bool]:
    """The first keys of the database, and whether there are more."""
    keys: list[str] = []
    for key in store.client.scan_iter(count=1000):
        if len(keys) >= MOST_LOOKED_AT:
            return keys, True
        keys.append(key.decode(errors="replace"))
    return keys, False


def _strangers(store: Store, keys: list[str], bound: set[str]) -> list[str]:
    """Without the lists that no Celery app has bound: those are trigger queues, which anybody may fill
    before there is an orchestrator that listens.
    """
    some = keys[:MOST_TYPES]
    with store.client.pipeline(transaction=False) as pipe:
        for key in some:
            pipe.type(key)
        types: list[bytes] = pipe.execute()
    return [key for key, kind in zip(some, types, strict=True) if kind != b"list" or key in bound]


def _is_ours(key: str, settings: Settings, queues: set[str]) -> bool:
    """Whether this hub wrote the key: its records, its queues with their priorities and poison lists, and
    what kombu notes of them. With the stock transport kombu's own records too.
    """
    if key.startswith((f"{settings.hub}:", "unacked")):
        return True
    key = BINDING.sub(r"\1", key).removeprefix(settings.queue_prefix).partition("\x06\x16")[0]
    return key in queues or key.removesuffix("-poison") in queues


def _clients_elsewhere(store: Store, database: int) -> int:
    """How many clients have chosen another database; 0 where we may not ask."""
    try:
        clients: bytes = store.run(command("CLIENT", "LIST"))
    except CeleriacError:  # forbidden by an ACL or by a provider: then the databases must do
        return 0
    return sum(int(chosen) != database for chosen in re.findall(rb" db=(\d+)", clients))


def _check_limit(
    report: Report, settings: Settings, store: Store, info: Mapping[str, Any], others: list[str]
) -> None:
    """Without a limit, another user of the instance can take all memory there is."""
    if str(info.get("maxmemory", 0)) != "0":
        return
    used = [name for name in info if re.fullmatch(r"db\d+", name) and name != f"db{settings.database}"]
    found = [f"database {name[2:]}" for name in sorted(used)]
    elsewhere = _clients_elsewhere(store, settings.database)
    if elsewhere:
        found.append(f"{elsewhere} clients of other databases")
    if others:
        found.append(f"keys that are not of this hub, such as {', '.join(map(repr, others[:3]))}")
    if found:
        text = f"maxmemory is 0 (no limit) and others use this Redis too ({'; '.join(found)})"
        report.add("limit", "warn", f"{text}: when they fill the memory, workflows stop; set maxmemory")
    else:
        report.add("limit", "ok", "maxmemory is 0 (no limit); nobody else uses this Redis")
