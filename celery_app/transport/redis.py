"""Celeriac's kombu transport: Celery's queues on Redis without a moment at which a message is nowhere.

Wire-compatible with kombu's own Redis transport (queue keys, priorities, envelopes, fanout), so stock
publishers and consumers work beside it. What differs, all in `channel.py`: an atomic take in batches with
the engine's checks inside, batched acknowledgements, countdowns parked in Redis, and flight records that
the living return when a worker dies.

Choose it with `broker_transport = "celeriac.celery_app.transport.redis:Transport"`. Transport options beside
kombu's: `hub` (the engine's name space), `lease` and `beat` (seconds), `prefetch_max`. A Celery worker
tells its transport what its pool is like (`Executor`, see `worker_boot.py`); without that a channel
serves plain kombu consumers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kombu.transport import redis as kombu_redis

from .channel import Channel

__all__ = ["Executor", "Poller", "Transport"]


@dataclass(frozen=True, slots=True)
class Executor:
    """What runs the messages of a transport. The default is a plain kombu consumer."""

    slots: Callable[[], int] | None = None  # how many run at once; None: as many as the consumer prefetches
    late: Callable[[str], bool] | None = None  # whether a task of this name is acknowledged after it ran
    inline: bool = False  # a message has been run when its delivery returns (solo pool)
    verify: Callable[[bytes], str] | None = None  # what is wrong with the signature of an engine's message
    dropped: Callable[[], set[str]] | None = (
        None  # delivery tags started but not to be finished if the channel closes
    )


class Poller(kombu_redis.MultiChannelPoller):
    """kombu's poller, which also hands out what channels took earlier."""

    def __init__(self) -> None:
        super().__init__()
        self.added: set[int] = set()  # sockets whose readers were added in the last second

    def on_poll_start(self) -> None:
        """Before each wait: start what there is room for, then ask Redis for more."""
        for channel in tuple(self._channels):
            if channel.pump():
                channel.wake_loop()
        super().on_poll_start()

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Without an event loop: one delivery, or wait for one."""
        self.maintain()
        pumped = [channel.pump() for channel in tuple(self._channels)]
        if True in pumped:
            return None
        return super().get(callback, timeout)

    def maintain(self) -> None:
        """Once a second."""
        self.added.clear()
        for channel in tuple(self._channels):
            channel.maintain()

    def maybe_restore_messages(self) -> None:
        """kombu's visibility timeout: not for us, a dead worker's messages come back by the sweep."""


class _Sparing:
    """A worker's loop, for kombu's transport, which at every turn adds the reader of each socket again: a
    system call and an exception. What the loop has already is passed over.

    The poller itself registers every socket that is new with the kernel. Should it ever not, each is added
    in full once a second.
    """

    def __init__(self, loop: Any, cycle: Poller) -> None:
        self._loop, self._cycle = loop, cycle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, fd: int, callback: Any, *args: Any) -> None:
        """Add the reader unless it is there."""
        if fd not in self._cycle.added or self._loop.readers.get(fd) != (callback, args):
            self._loop.add_reader(fd, callback, *args)
            self._cycle.added.add(fd)


class Transport(kombu_redis.Transport):
    """The transport."""

    Channel = Channel
    executor = Executor()
    stopping = False  # the worker is about to stop: take and start nothing more
    loop: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Called by a worker with an event loop."""
        self.loop = loop
        super().register_with_event_loop(connection, _Sparing(loop, self.cycle))
        loop.call_repeatedly(1.0, self.cycle.maintain)
