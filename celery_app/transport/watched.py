"""A kombu channel that knows when its connections lead to another Redis than before.

redis-py replaces a connection that died while it was idle in silence. And a Redis that came back may have
gone back to a time when this process held what it has long acknowledged.

A child that is forked closes its copies of the sockets. While it had them, the kernel would go on reporting
the end of a lost connection to the worker's epoll, under a number that its next connection has got.
"""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakSet

from kombu.transport import redis as kombu_redis

from ..store.driver import Origin

__all__ = ["WatchedChannel"]


_connections: WeakSet[Any] = WeakSet()  # redis-py's, of every channel of this process


class WatchedChannel(kombu_redis.Channel):
    """Notes at each connect which server answers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._origin, self._changes = Origin(), 0
        super().__init__(*args, **kwargs)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        return {
            **super()._connparams(asynchronous=asynchronous),
            "redis_connect_func": self._connected,
        }

    def _connected(self, connection: Any) -> None:
        _connections.add(connection)
        self._origin.connected(connection)

    def server_changed(self) -> bool:
        """Whether another server, or the same one restarted, was found since this was last asked."""
        before, self._changes = self._changes, self._origin.changes
        return before != self._changes


def _close_copies() -> None:
    """Not `disconnect`, which would shut the parent's connection down."""
    for connection in list(_connections):
        sock = getattr(connection, "_sock", None)
        if sock is not None:
            sock.close()


os.register_at_fork(after_in_child=_close_copies)
