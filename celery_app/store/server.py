"""Is this Redis fit to be the store? Checked when a process starts, and by `celeriac doctor`.

A finding of level "refuse" means that work would be lost or never done; "warn" that it may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celeriac.orchestrations.errors import RedisUnsuitableError

from .keys import Keys
from .scripts import Call, command, script

__all__ = ["SCHEMA", "Finding", "check_server", "ensure_suitable", "info", "note_schema"]

SCHEMA = 1  # of the records; a newer one in Redis is refused
OLDEST = (6, 2)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about this Redis: `level` is "refuse" or "warn"; `text` says what to do."""

    level: str
    name: str
    text: str


def info() -> Call[dict[str, Any]]:
    """What Redis says about itself."""

    def decode(reply: Any) -> dict[str, Any]:
        if isinstance(reply, Mapping):
            return dict(reply)
        lines = reply.decode().splitlines()
        pairs = (line.split(":", 1) for line in lines if ":" in line)
        return {name: int(value) if value.isdigit() else value for name, value in pairs}

    return command("INFO", decode=decode)


def check_server(info: Mapping[str, Any]) -> list[Finding]:
    """What speaks against this server, worst first."""
    found = [*_refusals(info), *_warnings(info)]
    return sorted(found, key=lambda finding: finding.level != "refuse")


def _refusals(info: Mapping[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    version = str(info.get("redis_version", "0"))
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
    if numbers < OLDEST:
        found.append(
            Finding("refuse", "version", f"Redis {version} is too old; 6.2 or newer is needed (or Valkey)")
        )
    role = info.get("role", "master")
    if role != "master":
        found.append(Finding("refuse", "role", f"this Redis is a {role}; use the address of the master"))
    if _number(info, "cluster_enabled"):
        text = "this Redis is a cluster; one transition changes keys of many slots, so use one master"
        found.append(Finding("refuse", "cluster", text))
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        text = (
            f"maxmemory-policy is {policy}: when memory is short Redis would delete workflows; set noeviction"
        )
        found.append(Finding("refuse", "eviction", text))
    return found


def _warnings(info: Mapping[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    if not _number(info, "aof_enabled"):
        text = (
            "appendonly is off: a crash of Redis loses everything since its last snapshot; set appendonly yes"
        )
        found.append(Finding("warn", "durability", text))
    elif info.get("aof_last_write_status", "ok") != "ok":
        text = "the last write of the append-only file failed: look at Redis' log and disk"
        found.append(Finding("warn", "aof", text))
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        found.append(Finding("warn", "snapshot", "the last snapshot failed: look at Redis' log and disk"))
    if _number(info, "loading"):
        found.append(
            Finding("warn", "loading", "Redis is still loading its data; calls are repeated until it is done")
        )
    limit, used = _number(info, "maxmemory"), _number(info, "used_memory")
    if limit and used > 0.9 * limit:
        text = (
            f"{used * 100 // limit}% of maxmemory is used; at 100% every write is refused: raise it or purge"
        )
        found.append(Finding("warn", "memory", text))
    return found


def _number(info: Mapping[str, Any], name: str) -> int:
    value = info.get(name, 0)
    return int(value) if str(value).isdigit() else 0


def ensure_suitable(findings: Sequence[Finding]) -> list[Finding]:
    """Raise RedisUnsuitableError for what must be refused; the warnings are the answer."""
    refused = [finding.text for finding in findings if finding.level == "refuse"]
    if refused:
        raise RedisUnsuitableError("; ".join(refused))
    return [finding for finding in findings if finding.level != "refuse"]


def note_schema(keys: Keys) -> Call[int]:
    """Note that this release's schema is used on this hub; the number noted before.

    RedisUnsuitableError when a newer release has used it already.
    """

    def decode(reply: Any) -> int:
        if reply > SCHEMA:
            raise RedisUnsuitableError(
                f"hub {keys.hub!r} was used by a newer Celeriac (schema {reply}, this one knows {SCHEMA}); "
                "upgrade this process, or use another hub"
            )
        return reply

    return script("note_schema").call(keys, number=SCHEMA, decode=decode, idempotent=True)
