"""The URLs of Redis: what is wrong with one, the number of its database, its spelling for Celery, and how
it is shown without its password.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from .sentinel import sentinel_address

__all__ = ["celery_url", "database_of", "masked_url", "url_problem"]

_SCHEMES: Final = "it must start with redis://, rediss:// (TLS), sentinel:// or unix:// (a socket)"
_SENTINEL_TLS: Final = (
    "TLS to sentinels, or to the master behind them, is not supported; write sentinel://, or "
    "rediss:// with an address that leads to the master"
)


def url_problem(url: str) -> str:
    """What is wrong with a URL, in words for its author; empty when nothing is."""
    try:
        if sentinel_address(url) is not None:
            return ""
        parts = urlsplit(url)
        database = _database(parts)
        _ = parts.port
    except ValueError as error:
        return f"not a Redis URL: {error}"
    return _problem(parts, database)


def _problem(parts: SplitResult, database: str) -> str:
    if parts.scheme not in {"redis", "rediss", "unix"}:
        return _SENTINEL_TLS if "sentinel" in parts.scheme else _SCHEMES
    if parts.scheme == "unix" and not parts.path.strip("/"):
        return "it names no socket; write unix:///path/to/redis.sock?db=0"
    if parts.scheme != "unix" and not parts.hostname:
        return f"it names no host; write {parts.scheme}://host:6379/0"
    if database and not database.isdecimal():
        return f"the database must be a number, not {database!r}"
    required = dict(parse_qsl(parts.query)).get("ssl_cert_reqs", "required").lower()
    if parts.scheme == "rediss" and required.removeprefix("cert_") == "none":
        return "TLS with an unchecked certificate is refused; give ssl_ca_certs"
    return ""


def masked_url(url: str) -> str:
    """`url` with the password, wherever a Redis URL may carry it, replaced by `***`."""
    scheme, separator, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        user, _, host = authority.rpartition("@")
        name, colon, _ = user.partition(":")
        authority = f"{name}{colon}{'***' if colon else ''}@{host}"
    return re.sub(r"(?i)(password=)[^&#]*", r"\1***", f"{scheme}{separator}{authority}{slash}{path}")


def database_of(url: str) -> int:
    """The number of the database that a URL names; 0 where it names none."""
    return int(_database(urlsplit(url)) or 0)


def celery_url(url: str) -> str:
    """A redis-py URL in the spelling of kombu and Celery."""
    address = sentinel_address(url)
    if address is not None:
        return address.celery_url
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "unix":
        query["virtual_host"] = query.pop("db", "0")
        user = quote(unquote(parts.username or ""), safe="")
        secret = f"{user}:{quote(unquote(parts.password), safe='')}@" if parts.password else ""
        return f"redis+socket://{secret}{parts.path}?{urlencode(query)}"
    if parts.scheme == "rediss":
        # Celery refuses to guess; we never accept an unchecked certificate (see `url_problem`).
        query.setdefault("ssl_cert_reqs", "required")
    path = f"/{query.pop('db', '') or parts.path.strip('/') or '0'}"
    return urlunsplit(parts._replace(path=path, query=urlencode(query)))


def _database(parts: SplitResult) -> str:
    if parts.scheme == "unix":
        return dict(parse_qsl(parts.query)).get("db", "")
    return dict(parse_qsl(parts.query)).get("db", "") or parts.path.strip("/")
