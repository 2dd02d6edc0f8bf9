"""kombu connections over the stock transport and over ours, side by side, and a proxy that loses replies."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import redis
from kombu.connection import Connection
from kombu.transport import redis as kombu_redis

from celeriac.celery_app.store.keys import Keys
from celeriac.celery_app.transport.redis import Transport

QUEUE = "hazard"


@dataclass
class Broker:
    """One of the two transports on the Redis of these tests."""

    url: str
    client: redis.Redis
    ours: bool
    hub: str = field(default_factory=lambda: f"h{os.urandom(3).hex()}")

    @property
    def keys(self) -> Keys:
        """Of the hub that our transport uses."""
        return Keys(self.hub)

    @contextmanager
    def connect(self, **more: Any) -> Iterator[Any]:
        """A kombu connection."""
        own = {"hub": self.hub, "lease": 1.0, "beat": 0.2} if self.ours else {}
        transport = Transport if self.ours else kombu_redis.Transport
        options = {**own, **more}
        with Connection(self.url, transport=transport, transport_options=options) as connection:
            yield connection

    def queued(self) -> int:
        """Messages in the queue."""
        return int(self.client.llen(QUEUE))

    def held(self) -> int:
        """Messages of which Redis knows that a consumer has them."""
        if not self.ours:
            return int(self.client.hlen("unacked"))
        records = list(self.client.scan_iter(f"{self.keys.flight('')}*"))
        return sum(int(self.client.hlen(key)) for key in records)

    def push(self, tag: str = "t1", body: str = '"x"', **more: Any) -> None:
        """Put an envelope on the queue by hand."""
        self.client.lpush(QUEUE, envelope(tag, body, **more))


def envelope(tag: str, body: str = '"x"', **more: Any) -> str:
    """What kombu would have written, with this delivery tag and body."""
    info = {"exchange": "", "routing_key": QUEUE}
    message = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {"delivery_tag": tag, "delivery_info": info, "delivery_mode": 2, "priority": 0},
    }
    return json.dumps({**message, **more})


def until(condition: Callable[[], Any], seconds: float = 30, what: str = "") -> Any:
    """Wait for a condition; its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.02)
    return found


def drain(connection: Any, done: Callable[[], Any], seconds: float = 30) -> None:
    """Let the connection's consumers receive until something is so."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.1)


class Unreliable:
    """A proxy before a Redis. The replies to the next `losses` requests with `word` in them are lost, and
    their connection with them, after Redis has done what they asked for.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target, self._password = (parts.hostname, parts.port), parts.password
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = url.replace(f":{parts.port}/", f":{self.port}/")
        self.word, self.losses, self.lost = b"", 0, 0
        threading.Thread(target=self._accept, daemon=True).start()

    def default_client(self) -> redis.Redis:
        """redis-py as it is by itself (`from_url` would leave its retries out)."""
        return redis.Redis("127.0.0.1", self.port, password=self._password)

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def lose(self, word: bytes, times: int) -> None:
        """From now on."""
        self.word, self.losses, self.lost = word, times, 0

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server, suppress(OSError):
            while request := client.recv(1 << 20):
                server.sendall(request)
                reply = server.recv(1 << 20)
                if self.losses and self.word in request:
                    self.losses, self.lost = self.losses - 1, self.lost + 1
                    return
                client.sendall(reply)
