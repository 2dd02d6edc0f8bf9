"""The address of a Redis behind Sentinel, read from `sentinel://[user:password@]host:port;host:port/db?master=name`.

Several sentinels are separated by `;` or `,`; the port is 26379 when none is given. User and password are
the master's; the sentinels' own go into `sentinel_username` and `sentinel_password`. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

__all__ = ["SentinelAddress", "sentinel_address"]

PORT: Final = 26379
EXAMPLE: Final = "sentinel://host1:26379;host2:26379/0?master=mymaster"
_KNOWN: Final = {"master", "sentinel_username", "sentinel_password"}


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Where the sentinels are, which master they watch, and how to log in."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    database: int
    username: str
    password: str
    sentinel_login: dict[str, str]

    @property
    def login(self) -> dict[str, str]:
        """The master's user and password, as redis-py names them."""
        found = {"username": self.username, "password": self.password}
        return {name: value for name, value in found.items() if value}

    @property
    def sentinel_options(self) -> dict[str, Any]:
        """How to talk to a sentinel: it answers at once, or another one is asked."""
        return {"socket_timeout": 2, "socket_connect_timeout": 2, **self.sentinel_login}

    @property
    def celery_url(self) -> str:
        """As kombu and Celery write it: one URL for each sentinel."""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        secret = f"{quote(self.username, safe='')}{secret or '@'}" if self.username else secret
        return ";".join(f"sentinel://{secret}{host}:{port}/{self.database}" for host, port in self.hosts)


def sentinel_address(url: str) -> SentinelAddress | None:
    """The address in a `sentinel://` URL; None for any other URL, ValueError says what is wrong with it."""
    if not url.startswith("sentinel://"):
        return None
    if url.count("://") > 1:
        raise ValueError(f"write the scheme once, as in {EXAMPLE}")
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    query = dict(parse_qsl(parts.query))
    if unknown := query.keys() - _KNOWN:
        raise ValueError(f"it has no option {min(unknown)!r}; there are {', '.join(sorted(_KNOWN))}")
    if not query.get("master"):
        raise ValueError(f"it does not say which master; write {EXAMPLE}")
    database = parts.path.strip("/") or "0"
    if not database.isdecimal():
        raise ValueError(f"the database must be a number, not {database!r}")
    return SentinelAddress(
        tuple(_place(text) for text in re.split("[;,]", places)),
        query["master"],
        int(database),
        unquote(username),
        unquote(password),
        {name.removeprefix("sentinel_"): value for name, value in query.items() if name != "master"},
    )


def _place(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"it names no host; write {EXAMPLE}")
    return parts.hostname, parts.port or PORT
