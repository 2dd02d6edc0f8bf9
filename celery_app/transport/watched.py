"""A kombu channel that knows when its connections lead to another Redis than before.

redis-py replaces a connection that died while it was idle in silence. And a Redis that came back may have
gone back to a time when this process held what it has long acknowledged.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as kombu_redis

from ..store.driver import Origin

__all__ = ["WatchedChannel"]


class WatchedChannel(kombu_redis.Channel):
    """Notes at each connect which server answers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._origin, self._changes = Origin(), 0
        super().__init__(*args, **kwargs)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        return {
            **super()._connparams(asynchronous=asynchronous),
            "redis_connect_func": self._origin.connected,
        }

    def server_changed(self) -> bool:
        """Whether another server, or the same one restarted, was found since this was last asked."""
        before, self._changes = self._changes, self._origin.changes
        return before != self._changes
