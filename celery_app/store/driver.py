"""Store and AsyncStore: run the same Call values, the one by blocking and the other by awaiting.

A connection error leaves open whether the call was applied. A call that says it is idempotent is sent
again with jittered back-off; any other raises RedisUnavailableError at once, and its caller decides.
redis-py's own retries are off, because they would repeat every command. A script Redis has
forgotten (restart, failover, SCRIPT FLUSH) is loaded and called again, also inside a pipeline.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from celeriac.orchestrations.errors import CeleriacError, RedisUnavailableError

from ..redis_urls import masked_url
from . import connecting
from .errors import StoreFullError, error_for
from .keys import Keys
from .lines import Lines
from .scripts import Call

__all__ = ["AsyncStore", "Store"]

T = TypeVar("T")

TRIES = 6
FIRST_PAUSE = 0.05
MAX_PAUSE = 2.0
AT_ONCE = 256  # calls under way in one store; the next one waits
SPARE = 8  # connections beside those of calls, for subscriptions

_LOST = (RedisConnectionError, RedisTimeoutError, OSError)


class HasAddress(Protocol):
    """What the store reads of the settings."""

    @property
    def redis_url(self) -> str:
        """The Redis to use."""
        ...

    @property
    def hub(self) -> str:
        """The name space in it."""
        ...


def _options(url: str, **more: Any) -> dict[str, Any]:
    if not url.startswith("unix:"):
        more["socket_keepalive"] = True
    return {
        "protocol": 2,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "health_check_interval": 10,
        "decode_responses": False,
        **more,
    }


def _pauses() -> Iterator[float]:
    """Jittered, doubling pauses between the tries of an idempotent call."""
    for n in range(TRIES - 1):
        yield min(MAX_PAUSE, FIRST_PAUSE * 2**n) * random.uniform(0.5, 1.0)


def _was_lost(error: Exception) -> bool:
    """The connection, and with it the answer; a refused login is an answer."""
    return isinstance(error, _LOST) and not isinstance(error, AuthenticationError)


def _translate(error: Exception, url: str) -> CeleriacError:
    """The error of ours for one of redis-py."""
    if isinstance(error, CeleriacError):
        return error
    where = f"Redis at {masked_url(url)}"
    if isinstance(error, AuthenticationError | NoPermissionError):
        return RedisUnavailableError(f"{where} refuses the login of its URL: {error}")
    if isinstance(error, ReadOnlyError) or "READONLY" in str(error):
        return RedisUnavailableError(f"{where} is a read-only replica: use the address of the master")
    if isinstance(error, _LOST):
        return RedisUnavailableError(
            f"{where} does not answer ({type(error).__name__}: {error}); "
            "is it running? Set CELERIAC_REDIS_URL or --redis, or run `celeriac dev`"
        )
    if type(error).__name__ == "OutOfMemoryError":
        return StoreFullError(f"{where} is out of memory: {error}")
    return error_for(str(error))


class Origin:
    """Which server the connections of a store lead to: asked at each connect, also one that redis-py makes in
    silence for a connection that was idle when Redis died.
    """

    def __init__(self) -> None:
        self.server = ""  # run id and replication id; what a restart or a fail-over changes
        self.changes = 0  # how often it was another one than before

    def connected(self, connection: Any) -> None:
        """Set a new connection up, and note where it leads."""
        connection.on_connect()
        connection.send_packed_command(
            connection.pack_commands([("INFO", "server"), ("INFO", "replication")]), check_health=False
        )
        found = [_info_field(connection, "run_id"), _info_field(connection, "master_replid")]
        server = " ".join(found) if all(found) else ""
        if self.server and server != self.server:
            self.changes += 1
        # INFO may be forbidden: then every new connection counts as a new server, which costs little.
        self.server = server or "unknown"


def _info_field(connection: Any, name: str) -> str:
    """One value of the reply to INFO; empty when it was refused."""
    try:
        text = connection.read_response(disable_decoding=True)
    except (NoPermissionError, ResponseError):
        return ""
    found = re.search(rb"\b%b:(\w+)" % name.encode(), text)
    return found[1].decode() if found else ""


class Store:
    """Blocking access. Safe to share between threads: each call takes a connection (see lines.py), and waits
    while others use them all (redis-py would raise, as if Redis were gone).
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        url: str,
        origin: Origin | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        # Any: redis-py types every reply as a union of what both colours and protocols may return.
        self.client: Any = client
        self.keys, self.url = keys, url
        self.origin = origin or Origin()
        self._lines = Lines.of(client, at_once)
        # A ticket for each call under way: a semaphore, at a tenth of its price.
        self._tickets: SimpleQueue[None] = SimpleQueue()
        for _ in range(at_once):
            self._tickets.put(None)

    @classmethod
    def connect(cls, settings: HasAddress, *, at_once: int = AT_ONCE) -> Store:
        """A store for these settings. Nothing is sent yet: `check_server` is the first call to make."""
        origin = Origin()
        most = at_once + SPARE
        options = _options(settings.redis_url, max_connections=most, retry=Retry(NoBackoff(), 0))
        client = connecting.client(settings.redis_url, redis_connect_func=origin.connected, **options)
        return cls(client, Keys(settings.hub), settings.redis_url, origin, at_once)

    def run(self, call: Call[T]) -> T:
        """Send one call and read its reply; raises what it was refused with."""
        pauses = _pauses() if call.idempotent else iter(())
        while True:
            try:
                return call.decode(self._send(call))
            except (RedisError, OSError) as error:
                pause = next(pauses, None) if _was_lost(error) else None
                if pause is None:
                    raise _translate(error, self.url) from error
            time.sleep(pause)

    def _send(self, call: Call[Any]) -> Any:
        self._tickets.get()
        try:
            return self._lines.send(call.words())
        except NoScriptError:
            _, reply = self._lines.send_all([call.loading(), call.words()])
            return _raised(reply)
        finally:
            self._tickets.put(None)

    def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Send calls in one pipeline; the answer to each, or (not raised) the error it was refused with.

        The calls must not depend on one another: one whose script Redis forgot is sent again after the rest.
        """
        if not calls:
            return []
        pauses = _pauses() if all(call.idempotent for call in calls) else iter(())
        while True:
            try:
                return _outcomes(calls, self._send_all(calls), self.url)
            except (RedisError, OSError) as error:
                pause = next(pauses, None) if _was_lost(error) else None
                if pause is None:
                    raise _translate(error, self.url) from error
            time.sleep(pause)

    def _send_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        replies = self._pipeline([call.words() for call in calls])
        forgotten = _forgotten(replies)
        if forgotten:
            some = [calls[n] for n in forgotten]
            again = self._pipeline([*(c.loading() for c in some), *(c.words() for c in some)])
            for n, reply in zip(forgotten, again[len(some) :], strict=True):
                replies[n] = reply
        return replies

    def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        self._tickets.get()
        try:
            return self._lines.send_all(commands)
        finally:
            self._tickets.put(None)

    def close(self) -> None:
        """Close every connection."""
        self.client.close()
        self.client.connection_pool.disconnect()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStore:
    """The same, awaited."""

    def __init__(self, client: redis.asyncio.Redis, keys: Keys, url: str, at_once: int = AT_ONCE) -> None:
        self.client: Any = client
        self.keys, self.url = keys, url
        self._room = asyncio.Semaphore(at_once)

    @classmethod
    def connect(cls, settings: HasAddress, *, at_once: int = AT_ONCE) -> AsyncStore:
        """A store for these settings. Nothing is sent yet: `check_server` is the first call to make."""
        retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
        options = _options(settings.redis_url, max_connections=at_once + SPARE, retry=retry)
        client = connecting.async_client(settings.redis_url, **options)
        return cls(client, Keys(settings.hub), settings.redis_url, at_once)

    async def run(self, call: Call[T]) -> T:
        """Send one call and read its reply; raises what it was refused with."""
        pauses = _pauses() if call.idempotent else iter(())
        while True:
            try:
                return call.decode(await self._send(call))
            except (RedisError, OSError) as error:
                pause = next(pauses, None) if _was_lost(error) else None
                if pause is None:
                    raise _translate(error, self.url) from error
            await asyncio.sleep(pause)

    async def _send(self, call: Call[Any]) -> Any:
        try:
            async with self._room:
                return await self.client.execute_command(*call.words())
        except NoScriptError:
            _, reply = await self._pipeline([call.loading(), call.words()])
            return _raised(reply)

    async def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Send calls in one pipeline; the answer to each, or (not raised) the error it was refused with.

        The calls must not depend on one another: one whose script Redis forgot is sent again after the rest.
        """
        if not calls:
            return []
        pauses = _pauses() if all(call.idempotent for call in calls) else iter(())
        while True:
            try:
                return _outcomes(calls, await self._send_all(calls), self.url)
            except (RedisError, OSError) as error:
                pause = next(pauses, None) if _was_lost(error) else None
                if pause is None:
                    raise _translate(error, self.url) from error
            await asyncio.sleep(pause)

    async def _send_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        replies = await self._pipeline([call.words() for call in calls])
        forgotten = _forgotten(replies)
        if forgotten:
            some = [calls[n] for n in forgotten]
            again = await self._pipeline([*(c.loading() for c in some), *(c.words() for c in some)])
            for n, reply in zip(forgotten, again[len(some) :], strict=True):
                replies[n] = reply
        return replies

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        async with self._room, self.client.pipeline(transaction=False) as pipe:
            for words in commands:
                pipe.execute_command(*words)
            return await pipe.execute(raise_on_error=False)

    async def close(self) -> None:
        """Close every connection."""
        await self.client.aclose()

    async def __aenter__(self) -> AsyncStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _forgotten(replies: Sequence[Any]) -> list[int]:
    return [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]


def _raised(reply: Any) -> Any:
    """The reply of a pipeline, raised if it is an error."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def _outcomes(calls: Sequence[Call[Any]], replies: Sequence[Any], url: str) -> list[Any]:
    """Decode each reply, or make the error of ours that it stands for. A lost connection is for all."""
    out: list[Any] = []
    for call, reply in zip(calls, replies, strict=True):
        if isinstance(reply, _LOST) and not isinstance(reply, ResponseError):
            raise reply
        out.append(_translate(reply, url) if isinstance(reply, Exception) else _decoded(call, reply))
    return out


def _decoded(call: Call[Any], reply: Any) -> Any:
    """What the reply says; a refusal found in reading it (a payload that is gone) is for this call alone."""
    try:
        return call.decode(reply)
    except CeleriacError as error:
        return error
