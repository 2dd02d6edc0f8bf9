"""Clients of redis-py for a Redis URL: a single server, or the master that sentinels know at the moment.

A connection to a master that was demoted meanwhile is lost (ConnectionError), and the next one asks the
sentinels again.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..sentinel import SentinelAddress, sentinel_address

__all__ = ["async_client", "client", "sentinel_options"]


def sentinel_options(address: SentinelAddress) -> dict[str, Any]:
    """How to ask a sentinel: once. redis-py would ask one that is down for 4 s before it asks the next."""
    return {**address.sentinel_options, "retry": Retry(NoBackoff(), 0)}


def client(url: str, **options: Any) -> redis.Redis:
    """A blocking client; `options` are those of a connection."""
    address = sentinel_address(url)
    if address is None:
        return redis.Redis.from_url(url, **options)
    asked = redis.sentinel.Sentinel(list(address.hosts), sentinel_kwargs=sentinel_options(address))
    return asked.master_for(address.master, db=address.database, **address.login, **options)


def async_client(url: str, **options: Any) -> redis.asyncio.Redis:
    """The same, awaited."""
    address = sentinel_address(url)
    if address is None:
        return redis.asyncio.Redis.from_url(url, **options)
    once = {**address.sentinel_options, "retry": redis.asyncio.retry.Retry(NoBackoff(), 0)}
    asked = redis.asyncio.sentinel.Sentinel(list(address.hosts), sentinel_kwargs=once)
    return asked.master_for(address.master, db=address.database, **address.login, **options)
