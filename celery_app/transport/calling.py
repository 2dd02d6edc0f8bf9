"""A kombu channel with one client for everything, through which it also sends the calls of the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import redis
from redis.exceptions import NoScriptError, ResponseError

from ..store.lines import Lines
from ..store.scripts import Call
from .intake import refusal
from .watched import WatchedChannel

__all__ = ["CallingChannel"]

T = TypeVar("T")

KEPT = 1  # connection for calls, of the ten that kombu's pool may have


class CallingChannel(WatchedChannel):
    """A channel that keeps its client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._kept_client: Any = None
        self._lines: Lines | None = None
        super().__init__(*args, **kwargs)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """The channel's client. kombu makes a new one for each operation, a fifth of a worker's time."""
        if client is None:
            client = self._kept_client
            if client is None:
                client = self._kept_client = self._create_client()
        yield client

    def _disconnect_pools(self) -> None:
        self._kept_client = None
        self.__dict__.pop("_plain", None)
        self._lines = None
        super()._disconnect_pools()

    @property
    def plain(self) -> redis.Redis:
        """A client that does not prefix keys: the hub's keys have none, and queue keys are prefixed by us."""
        client = self.__dict__.get("_plain")
        if client is None:
            client = self.__dict__["_plain"] = redis.Redis(connection_pool=self.pool)
        return client

    def run(self, call: Call[T]) -> T:
        """Send one call of the store over a connection of the channel's pool."""
        lines = self._lines
        if lines is None:
            lines = self._lines = Lines.of(self.plain, KEPT)
        try:
            try:
                reply = lines.send(call.words())
            except NoScriptError:
                lines.send(call.loading())
                reply = lines.send(call.words())
        except ResponseError as error:
            raise refusal(error) from error
        return call.decode(reply)
