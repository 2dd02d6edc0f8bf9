"""Is this Redis fit to be the store? Checked when a process starts, and by `celeriac doctor`.

A finding of level "refuse" means that work would be lost or never done; "warn" that it may be.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from celeriac.orchestrations.errors import RedisUnsuitableError

from ..redis_urls import masked_url
from .keys import Keys
from .scripts import Call, command, script

__all__ = [
    "SCHEMA",
    "Finding",
    "check_access",
    "check_server",
    "ensure_startable",
    "ensure_suitable",
    "info",
    "note_schema",
]

SCHEMA = 1  # of the records; a newer one in Redis is refused
OLDEST = (6, 2)


@dataclass(frozen=True, slots=True)
class Fault:
    """A security fault of Redis: since which release, and the first one of each line without it.

    A line that is not named was not mended, unless it is newer than all that are.
    """

    name: str
    since: tuple[int, ...]
    fixed: tuple[tuple[int, ...], ...]

    def is_in(self, number: tuple[int, ...]) -> bool:
        """Whether this release has it."""
        if number < self.since:
            return False
        line = next((fixed for fixed in self.fixed if fixed[:2] == number[:2]), None)
        return number < line if line else number < max(self.fixed)

    def remedy(self, number: tuple[int, ...]) -> tuple[int, ...]:
        """The nearest release without it."""
        return min(fixed for fixed in self.fixed if fixed > number)


FAULTS: Final = (
    Fault("CVE-2024-31228", (2, 2, 5), ((6, 2, 16), (7, 2, 6), (7, 4, 1))),
    Fault("CVE-2025-49844", (2, 6), ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2))),
    Fault("CVE-2026-23479", (7, 2), ((7, 2, 14), (7, 4, 9), (8, 2, 6), (8, 4, 3), (8, 6, 3))),
)


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
        kind = "replica" if role == "slave" else role
        found.append(Finding("refuse", "role", f"this Redis is a {kind}; use the address of the master"))
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
    return found + _faults(info)


def _faults(info: Mapping[str, Any]) -> list[Finding]:
    """The known security faults of this release. All of them need somebody who can send commands, so a
    server that listens on a socket of this machine only is not spoken of.
    """
    if "valkey" in str(info.get("server_name", "")) or not _number(info, "tcp_port"):
        return []
    version = str(info.get("redis_version", "0"))
    number = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    faults = [fault for fault in FAULTS if fault.is_in(number)]
    if not faults:
        return []
    fixed = ".".join(map(str, max(fault.remedy(number) for fault in faults)))
    names = ", ".join(fault.name for fault in faults)
    text = f"Redis {version} has known security faults ({names}) unless your distribution patched it"
    return [Finding("warn", "release", f"{text}; {fixed} has none of them")]


def check_access(url: str) -> Finding | None:
    """What speaks against reaching Redis by this URL: everybody can, or everybody can listen."""
    parts = urlsplit(url)
    host, query = parts.hostname or "", parse_qs(parts.query)
    if parts.scheme == "unix" or _is_loopback(host):
        return None
    if not (parts.password or "password" in query or "ssl_certfile" in query):
        text = (
            f"Redis on {host} takes commands without a password, and whoever can give it commands runs the "
            "workflows; set requirepass or an ACL user and put it into CELERIAC_REDIS_URL"
        )
        return Finding("refuse", "access", text)
    if parts.scheme != "rediss":
        text = f"the password and all data travel to {host} in clear; use rediss:// (TLS)"
        return Finding("warn", "access", text)
    if query.get("ssl_check_hostname", ["true"])[-1].lower() in {"false", "0", "no"}:
        text = f"ssl_check_hostname is off: any holder of a valid certificate can pose as {host}"
        return Finding("warn", "access", text)
    return None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _number(info: Mapping[str, Any], name: str) -> int:
    value = info.get(name, 0)
    return int(value) if str(value).isdigit() else 0


def ensure_suitable(findings: Sequence[Finding], url: str) -> list[Finding]:
    """Raise RedisUnsuitableError for what must be refused at this address; the warnings are the answer."""
    refused = [finding.text for finding in findings if finding.level == "refuse"]
    if refused:
        raise RedisUnsuitableError(f"Redis at {masked_url(url)} must not be used: {'; '.join(refused)}")
    return [finding for finding in findings if finding.level != "refuse"]


def ensure_startable(info: Mapping[str, Any], url: str) -> list[Finding]:
    """The same for a process that is about to take work: also who else can reach this Redis counts."""
    access = check_access(url)
    return ensure_suitable([*check_server(info), *([access] if access else [])], url)


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
