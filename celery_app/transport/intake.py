"""The connection of a durable channel that, in turn, waits for work and takes it.

While there are messages it carries `[acknowledgements, promotion, take]` in one write; when the last take
left nothing, BRPOP on the token lists of the queues, for a second at most. kombu's poller watches the
socket: `start` sends what comes next, `read` handles the replies. A take whose reply is lost is harmless:
its incarnation is given up, and what it took returns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from kombu.transport import virtual
from redis.exceptions import NoScriptError

from ..store import flights
from ..store.errors import FencedError, StoreError, StoreFullError, error_for
from ..store.lines import read_reply
from ..store.scripts import Call, blocking, script
from .inflight import HAND_BACK_AFTER, InFlight, Pending

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["Intake", "QoS", "Watch", "refusal"]

logger = logging.getLogger("celeriac.transport")

WAIT = 1.0  # seconds; the most that a lost token costs
PROMOTE_EVERY = 0.25


class Intake:
    """Decides how much to take, sends it, reads what came."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._expected: list[Callable[[Any], None]] = []  # what to do with each reply under way
        self._sent: Pending | None = None  # acknowledgements written, their reply not yet read
        self._empty = False  # the last take left nothing behind
        self._queues: list[str] = []  # the queue of each key named in the take under way
        self._promote_at = 0.0
        self._next_due = 0.0

    @property
    def busy(self) -> bool:
        """Whether replies of ours are under way."""
        return bool(self._expected)

    def look_for_due(self) -> None:
        """Something was parked: look for due messages with the next take."""
        self._promote_at = 0.0

    # --- how much -------------------------------------------------------------------------------

    def room(self) -> int:
        """How many messages to take now."""
        connection = self._channel.connection
        if connection is None or connection.stopping or not self._channel.active_queues:
            return 0
        free, ahead, waiting = self._demand()
        return free + ahead - waiting if waiting < free or waiting <= ahead // 2 else 0

    def _demand(self) -> tuple[int, int, int]:
        """What can start now, what will start soon, and what waits here already."""
        channel, flying = self._channel, self._channel.flying
        slots = channel.slots
        if flying is None:
            return slots, 0, 0
        free = slots if channel.connection.executor.inline else max(0, slots - len(flying.running))
        return free, self._ahead(flying, slots, free), len(flying.buffer)

    def _ahead(self, flying: InFlight, slots: int, free: int) -> int:
        """How many to take beyond the free slots: none behind a slow one, and none while no slot will be free
        soon, or the worker would ask Redis again and again for what it may not take."""
        pace, started_since = flying.pace, monotonic() - HAND_BACK_AFTER
        ahead = max((pace.ahead(queue, slots) for queue in self._channel.active_queues), default=0)
        waiting = len(flying.buffer)
        if ahead == 0 or (waiting >= free and waiting > ahead // 2):
            return ahead  # there is no room in any case; that is the answer at most turns of the loop
        if any(not pace.ahead(queue, slots) for queue in {held.queue for held in tuple(flying.buffer)}):
            return 0
        moving = free > 0 or any(
            held.started_at > started_since and pace.ahead(held.queue, slots)
            for held in tuple(flying.running.values())
        )
        return ahead if moving else 0

    def _wanted(self, flying: InFlight) -> list[tuple[str, int]]:
        """Queue keys with the most to take of each: highest priority first, queues in turn."""
        channel = self._channel
        free, ahead, waiting = self._demand()
        left = max(0, free - waiting)
        queues = channel._queue_cycle.consume(len(channel.active_queues))
        wanted, self._queues = [], []
        for step in channel.priority_steps:
            for queue in queues:
                own = flying.pace.ahead(queue, channel.slots) if ahead else 0
                # A slow queue's turn comes, too, while quick ones keep every slot busy.
                cap = left + own if own else max(left, 1 if ahead else 0)
                wanted.append((channel.queue_key(queue, step), cap))
                self._queues.append(queue)
        return wanted

    # --- sending --------------------------------------------------------------------------------

    def start(self, flying: InFlight, connection: Any) -> None:
        """Send the next command; its reply makes the socket readable."""
        if self._empty:
            commands, self._expected = [self._wait_command()], [self._woken]
        else:
            commands = self._take_commands(flying)
        connection.send_packed_command(connection.pack_commands(commands))

    def _wait_command(self) -> tuple[Any, ...]:
        channel = self._channel
        wait = min(WAIT, max(0.02, self._next_due - time.time())) if self._next_due else WAIT
        queues = (f"{channel.global_keyprefix}{queue}" for queue in channel.active_queues)
        return ("BRPOP", *(channel.hub_keys.token(queue) for queue in queues), blocking(wait))

    def _take_commands(self, flying: InFlight) -> list[tuple[Any, ...]]:
        keys = self._channel.hub_keys
        self._sent = flying.draw()
        calls: list[Call[Any]] = [*self._sent.calls(keys)]
        self._expected = [_nothing_more] * len(calls)
        if monotonic() >= self._promote_at:
            promote = flights.promote(keys)
            calls.append(promote)
            self._expected.append(lambda reply: self._promoted(promote.decode(reply)))
        limit, incarnation = self.room(), flying.incarnation or ""
        take = flights.take(keys, incarnation, flying.numbers(limit), limit, self._wanted(flying))
        calls.append(take)
        self._expected.append(lambda reply: self._took(flying, incarnation, take, reply))
        return [call.words() for call in calls]

    # --- reading --------------------------------------------------------------------------------

    def read(self, connection: Any) -> None:
        """Read every reply under way. A lost connection leaves acknowledgements to be told again."""
        expected, self._expected = self._expected, []
        try:
            replies = [read_reply(connection) for _ in expected]
        except BaseException:
            self.drop()
            connection.disconnect()
            raise
        finally:
            self._channel._in_poll = None
        refused = [reply for reply in replies[:-1] if isinstance(reply, Exception)]
        if refused:  # telling it twice does no harm
            self.drop()
            logger.warning("Redis refused an acknowledgement or promotion, it is repeated: %s", refused[0])
        if self._sent is not None and self._channel.flying is not None:
            self._channel.flying.told(self._sent)
        self._sent = None
        for handle, reply in zip(expected, replies, strict=True):
            if not isinstance(reply, Exception) or handle is expected[-1]:
                handle(reply)

    def drop(self) -> None:
        """Expect nothing any more."""
        if self._sent is not None and self._channel.flying is not None:
            self._channel.flying.undraw(self._sent)
        self._sent, self._expected = None, []

    def stop(self, connection: Any) -> None:
        """The last consumer is gone: no reply may bring more, and the worker may not look again for long."""
        if self._expected == [self._woken]:
            connection.disconnect()
        elif self._expected:
            self.read(connection)
        self.drop()

    def _woken(self, reply: Any) -> None:
        """A token, or a second has passed: look."""
        if isinstance(reply, Exception):
            raise reply
        self._empty = False

    def _promoted(self, reply: tuple[int, int]) -> None:
        moved, due = reply
        self._next_due = due / 1000 if due > 0 else 0.0
        self._promote_at = monotonic() + (0.0 if moved else PROMOTE_EVERY)

    def _took(self, flying: InFlight, incarnation: str, call: Call[flights.Taken], reply: Any) -> None:
        channel = self._channel
        if isinstance(reply, NoScriptError):
            channel.plain.script_load(script("take").source)
            return
        if isinstance(reply, Exception):
            error = refusal(reply)
            if not isinstance(error, FencedError):
                raise error
            logger.warning("this worker's lease lapsed (was it paused?); what it held went to others")
            flying.abandon(incarnation)
            return
        taken = call.decode(reply)
        self._empty = not taken.left
        flying.took(incarnation, taken, self._queues)
        if taken.messages:
            channel._queue_cycle.rotate(self._queues[taken.messages[-1][1]])
        if taken.dropped:
            logger.info("dropped %d messages of steps that are closed, repeated or forged", taken.dropped)
        for queue in {held.queue for held in flying.buffer}.difference(channel.active_queues):
            flying.hand_back(channel.run, queue)  # its consumer was cancelled meanwhile


class QoS(virtual.QoS):
    """kombu's bookkeeping of unacknowledged messages; for durable channels `InFlight` keeps it."""

    restore_at_shutdown = False

    def can_consume(self) -> bool:
        """Whether the channel should be polled: it expects a reply, or wants to send."""
        channel = self.channel
        return bool(channel._in_poll) or channel.room() > 0 if channel.durable else super().can_consume()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Recorded already, in Redis and in `InFlight`."""

    def ack(self, delivery_tag: str) -> None:
        """See Channel.basic_ack."""

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """See Channel.basic_reject."""


class Watch(threading.Thread):
    """Hands back what waits behind a long task in a solo worker, whose loop cannot."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(name="celeriac-hand-back", daemon=True)
        self.armed, self._stopped, self._channel = threading.Event(), threading.Event(), channel

    def run(self) -> None:
        """Sleep until something has waited too long."""
        while not self._stopped.is_set():
            self.armed.wait()
            self.armed.clear()
            flying = self._channel.flying
            while flying is not None and (left := flying.overdue_in()) is not None:
                if left <= 0:
                    self._channel.hand_back()
                    break
                if self._stopped.wait(left):
                    break

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.armed.set()


def _nothing_more(reply: Any) -> None:
    """An acknowledgement was told."""


def refusal(error: Exception) -> Exception:
    """The store's exception for an error reply of a script; redis-py's own for every other."""
    known = error_for(str(error))
    return error if type(known) in (StoreError, StoreFullError) else known
