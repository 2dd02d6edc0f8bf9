"""Who waits for an instance is woken by Redis: one subscription per process and Redis, shared by all waiters.

A thread holds one connection in subscriber mode. `watch(channel, wake)` has `wake` called, from that thread,
when the subscription of the channel is confirmed (so that the caller can check *after* it), at each message,
and again when a lost connection has been made anew: a message may have been missed meanwhile. `wake` must be
quick and must not raise. Nothing is read from a wake-up but "look again", so a spurious one is harmless.

The thread starts with the first waiter and ends some seconds after the last. After a fork the child starts
with none of it.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..complaints import Complaints
from .connecting import client

logger = logging.getLogger("celeriac.client")

LINGER = 5.0  # seconds the thread and its connection outlive the last waiter
PING_AFTER = 5.0  # seconds of silence after which the connection is tested
MAX_BACKOFF = 2.0
CHUNK = 500  # channels in one SUBSCRIBE after a reconnect

Wake = Callable[[], None]


class Endings:
    """The multiplexed subscription to one Redis."""

    def __init__(self, url: str) -> None:
        options: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True}
        self._pool = client(
            url,
            protocol=2,
            socket_connect_timeout=5,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            **options,
        ).connection_pool
        self._changed = threading.Condition()  # guards everything below
        self._watchers: dict[str, list[Wake]] = {}
        self._confirmed: set[str] = set()
        self._connection: Any = None
        self._thread: threading.Thread | None = None
        self._lost = Complaints(logger)

    @contextmanager
    def watch(self, channel: str, wake: Wake) -> Iterator[None]:
        """While inside, `wake` is called as the module docstring says."""
        with self._changed:
            known = self._watchers.setdefault(channel, [])
            known.append(wake)
            confirmed = channel in self._confirmed
            if len(known) == 1:
                self._send("SUBSCRIBE", channel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celeriac-endings", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if confirmed:
            wake()
        try:
            yield
        finally:
            with self._changed:
                known = self._watchers[channel]
                known.remove(wake)
                if not known:
                    del self._watchers[channel]
                    self._confirmed.discard(channel)
                    self._send("UNSUBSCRIBE", channel)

    @property
    def waiting(self) -> int:
        """How many waiters there are."""
        with self._changed:
            return sum(map(len, self._watchers.values()))

    def _send(self, *command: str) -> None:
        """Send on the living connection, if any; a failure wakes the reader, which makes a new one."""
        if self._connection is None:
            return
        try:
            self._connection.send_command(*command, check_health=False)
        except (redis.RedisError, OSError):
            logger.debug("the subscription was lost while sending %s", command[0])
            self._connection = None

    def _run(self) -> None:
        backoff = 0.05
        while self._wanted():
            connection = self._pool.make_connection()
            try:
                connection.connect()
                self._subscribe_all(connection)
                backoff = 0.05
                self._lost.over("the subscription for finished instances is there again")
                self._listen(connection)
            except Exception as error:  # noqa: BLE001  whatever broke the connection, the waiters need a new one
                self._lost.about("lost the subscription for finished instances, making a new one: %s", error)
                with self._changed:
                    self._connection = None
                    self._confirmed.clear()
                    self._changed.wait(random.uniform(backoff / 2, backoff))
                backoff = min(MAX_BACKOFF, backoff * 2)
            finally:
                with self._changed:
                    self._connection = None
                    self._confirmed.clear()
                connection.disconnect()

    def _wanted(self) -> bool:
        """Wait a little for a new waiter; False (and the thread forgotten) when none comes."""
        with self._changed:
            if not self._watchers:
                self._changed.wait_for(lambda: bool(self._watchers), timeout=LINGER)
            if not self._watchers:
                self._thread = None
                return False
            return True

    def _subscribe_all(self, connection: Any) -> None:
        with self._changed:
            channels = list(self._watchers)
            for start in range(0, len(channels), CHUNK):
                connection.send_command("SUBSCRIBE", *channels[start : start + CHUNK], check_health=False)
            self._connection = connection

    def _listen(self, connection: Any) -> None:
        """Read until the connection breaks (raises) or nobody has waited for some seconds (returns)."""
        silent = idle = 0.0
        while True:
            try:
                reply = connection.read_response(
                    disable_decoding=True, timeout=PING_AFTER, disconnect_on_error=False
                )
            except (redis.TimeoutError, TimeoutError) as error:
                if silent:
                    raise ConnectionError(f"no answer to PING within {PING_AFTER:g} s") from error
                silent = PING_AFTER
                with self._changed:
                    idle = 0.0 if self._watchers else idle + PING_AFTER
                    if idle >= LINGER:
                        return
                    connection.send_command("PING", check_health=False)
                continue
            silent = 0.0
            self._dispatch(reply)

    def _dispatch(self, reply: Any) -> None:
        if not isinstance(reply, list) or reply[0] not in (b"message", b"subscribe"):
            return  # an answer to PING or UNSUBSCRIBE
        kind = reply[0]
        channel = bytes(reply[1]).decode()
        with self._changed:
            wakes = list(self._watchers.get(channel, ()))
            if wakes and kind == b"subscribe":
                self._confirmed.add(channel)
        for wake in wakes:
            wake()


_guard = threading.Lock()
_by_url: dict[str, Endings] = {}


def endings_of(url: str) -> Endings:
    """The process' one subscription to the Redis at this URL."""
    with _guard:
        if url not in _by_url:
            _by_url[url] = Endings(url)
        return _by_url[url]


def _forget() -> None:
    """In a forked child: the parent's thread does not exist here, and its socket is not ours."""
    global _guard
    _guard = threading.Lock()
    _by_url.clear()


os.register_at_fork(after_in_child=_forget)
