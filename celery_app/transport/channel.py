"""The channel of our transport: what kombu asks of it, done so that no message is in memory only.

A channel with a consumer that acknowledges is *durable*: it takes into the flight record of its
incarnation (`inflight.py`) over one connection (`intake.py`); one long-lived client does everything else.
Started are only as many messages as the pool has room for; the rest waits here and can be handed back.
Channels whose consumers never acknowledge (events, remote control, replies) are kombu's own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty
from time import monotonic
from typing import Any, Literal, TypeVar

from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps
from redis.exceptions import ResponseError

from ..store import flights
from ..store.errors import FencedError, StoreError
from ..store.keys import Keys
from ..store.scripts import script
from .calling import CallingChannel
from .envelope import Message, due_time, read
from .inflight import ROSTER, Held, InFlight
from .intake import Intake, QoS, Watch
from .prefetch import Pace

__all__ = ["Channel"]

logger = logging.getLogger("celeriac.transport")
T = TypeVar("T")

EARLY = 0.05  # a message due within so many seconds is not worth parking


class Channel(CallingChannel):
    """A channel that never has a message in memory only."""

    QoS = QoS
    Message = Message
    hub = "celeriac"
    lease = 10.0
    beat = 2.0
    max_lost = flights.MAX_LOST
    prefetch_max = 64
    prefetch_span = 0.05
    from_transport_options = (
        *kombu_redis.Channel.from_transport_options,
        "hub",
        "lease",
        "beat",
        "max_lost",
        "prefetch_max",
        "prefetch_span",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.flying: InFlight | None = None
        self._acknowledging: dict[str, bool] = {}  # queue: whether its consumer acknowledges
        self._intake = Intake(self)
        self._beaten_at = 0.0
        self._pumping = False
        self._flush_planned = False
        self._watch: Watch | None = None
        self._thread = threading.get_ident()
        super().__init__(*args, **kwargs)
        self.hub_keys = Keys(self.hub)

    # --- publishing -----------------------------------------------------------------------------

    def queue_key(self, queue: str, priority: Any) -> str:
        """The list in Redis of a queue's messages of one priority."""
        return f"{self.global_keyprefix}{self._q_for_pri(queue, priority)}"

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Put a message on its queue, or park it until its time."""
        key = self.queue_key(queue, self._get_message_priority(message, reverse=False))
        due = due_time(message)
        if due > time.time() + EARLY:
            self.run(
                flights.park(self.hub_keys, _parked_as(message, key), key, dumps(message), int(due * 1000))
            )
        elif queue in self._expires or kwargs.get("_publish_batch") is not None:
            super()._put(queue, message, **kwargs)
        else:
            self.run(flights.publish(self.hub_keys, key, dumps(message)))

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        """Whether the queue has messages: all that Redis knows of it. (kombu 5.7 forgets the prefix here.)"""
        return bool(self.plain.exists(*(self.queue_key(queue, step) for step in self.priority_steps)))

    # --- consuming ------------------------------------------------------------------------------

    @property
    def durable(self) -> bool:
        """Whether any consumer here acknowledges."""
        return any(self._acknowledging.values())

    @property
    def active_queues(self) -> list[str]:
        """As kombu has them, without those of fanout; asked for several times at each turn of the loop."""
        if self.active_fanout_queues:
            return super().active_queues
        return list(dict.fromkeys(self._active_queues))

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Start a consumer."""
        result = super().basic_consume(queue, no_ack, *args, **kwargs)
        if queue not in self._fanout_queues:
            self._acknowledging[queue] = not no_ack
        return result

    def _basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        result = super()._basic_cancel(consumer_tag)
        if queue is not None and self.flying is not None and not self.closed:
            if not self.active_queues:
                self._intake.stop(self.client.connection)
            self.flying.hand_back(self.run, queue)
        return result

    def settle(self) -> InFlight:
        """What is in flight here, with an incarnation to take under."""
        flying = self.flying
        if flying is None:
            # Without the password. Behind sentinels the URL is that of whichever was asked last.
            broker = getattr(self, "master_name", None) or self.connection.client.as_uri()
            pace = Pace(self.prefetch_span, self.prefetch_max)
            flying = InFlight.resume(broker, self.hub_keys, int(self.lease * 1000), pace)
            self.flying = flying
            for name in ("take", "ack", "promote"):  # later sent without a way to answer NOSCRIPT
                self.plain.script_load(script(name).source)
        if self.server_changed():
            flying.abandon()  # it may hold in our name what we have long acknowledged
        if flying.incarnation is None or flying.unsettled:
            flying.settle(self.run)
        return flying

    @property
    def slots(self) -> int:
        """How many messages may be started at once."""
        executor = self.connection.executor
        prefetch = self.qos.prefetch_count or self.prefetch_max
        return min(prefetch, executor.slots()) if executor.slots else prefetch

    @property
    def runs_here(self) -> bool:
        """Whether the pool runs tasks in the loop's thread, and this is it."""
        connection = self.connection
        return connection is not None and connection.executor.inline and self._thread == threading.get_ident()

    def room(self) -> int:
        """How many messages to take now."""
        return self._intake.room()

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Called by kombu's poller when nothing is under way and there is room."""
        if not self.durable:
            super()._brpop_start(timeout)
            return
        flying = self.settle()
        connection = self.client.connection
        self._in_poll, self._brpop_sent_at = connection, monotonic()
        self._intake.start(flying, connection)

    def _brpop_read(self, **options: Any) -> Literal[True]:
        """Called when the socket is readable: read the replies, start what they brought."""
        if not self._intake.busy:
            if not self._in_poll:  # nothing was asked: to read would be to wait until the socket times out
                raise Empty
            return super()._brpop_read(**options)
        self._intake.read(self.client.connection)
        if not self.pump():
            raise Empty
        return True

    # --- starting and finishing -----------------------------------------------------------------

    def pump(self) -> bool:
        """Start what there is room for.

        Cheap when there is nothing to do; called at every turn of the loop.
        """
        flying = self.flying
        if flying is None or self._pumping or self.closed:
            return False
        self._pumping, self._thread = True, threading.get_ident()
        try:
            if flying.flush_due():
                self._try(lambda: flying.flush(self.run))
            left = flying.overdue_in()
            if left is not None and left <= 0:
                self.hand_back()
            return not self.connection.stopping and self._start_some(flying)
        finally:
            self._pumping = False

    def _start_some(self, flying: InFlight) -> bool:
        inline, until, started = self.connection.executor.inline, monotonic() + self.prefetch_span, False
        slots = 1 << 30 if inline else self.slots
        while (held := flying.next(slots)) is not None:
            started = True
            if inline and flying.buffer:
                self._guard_rest()
            self._deliver(flying, held)
            if inline and (not held.patient or monotonic() > until):
                break  # let the loop acknowledge it
        return started

    def _deliver(self, flying: InFlight, held: Held) -> None:
        try:
            self._hand_over(flying, held)
        except BaseException:
            flying.forget(held.tag)  # nobody will finish it: it returns with its incarnation
            flying.abandon(held.incarnation)
            raise
        if self.connection is None:
            return
        if self.connection.executor.inline:
            flying.pace.note(held.queue, monotonic() - held.started_at)
        if not self._acknowledging.get(held.queue, True):
            self.basic_ack(held.tag)

    def _hand_over(self, flying: InFlight, held: Held) -> None:
        try:
            message = read(held.raw, self.connection.executor.verify)
        except ValueError as error:
            flying.set_aside(self.run, held.tag, str(error))
            return
        if not held.ours and (due := due_time(message)) > time.time() + EARLY:
            self._park(flying, held, message, due)
            return
        message["properties"]["delivery_tag"] = held.tag
        late = self.connection.executor.late
        held.patient = held.ours or (
            late is not None and late((message.get("headers") or {}).get("task", ""))
        )
        try:
            self.connection._deliver(message, held.queue)
        except (ValueError, TypeError, KeyError) as error:
            if self.connection is None or self.connection.executor.slots is None:
                raise  # a plain consumer's own error
            flying.set_aside(self.run, held.tag, f"{type(error).__name__}: {error}")

    def _park(self, flying: InFlight, held: Held, message: dict[str, Any], due: float) -> None:
        """A stock client published it with a countdown: it waits in Redis, not here."""
        key = self.queue_key(held.queue, self._get_message_priority(message, reverse=False))
        member, at = _parked_as(message, key), int(due * 1000)
        where = {"incarnation": held.incarnation, "field": held.number}
        self.run(flights.park(self.hub_keys, member, key, held.raw, at, **where))
        flying.forget(held.tag)
        self._intake.look_for_due()

    def set_aside(self, tag: str, reason: str) -> bool:
        """A started message cannot be read: see InFlight.set_aside."""
        return self.flying is not None and self.flying.set_aside(self.run, tag, reason)

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """The message is done with. A late acknowledgement may wait for company, an early one must not."""
        self._finish(delivery_tag, requeue=False)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """The message is done with, or goes to the end of its queue."""
        self._finish(delivery_tag, requeue=requeue)

    def _finish(self, tag: str, *, requeue: bool) -> None:
        flying = self.flying
        held = flying.finish(str(tag), requeue=requeue) if flying is not None else None
        if flying is None or held is None:
            return
        if self.closed or self.connection is None:
            return  # the next channel tells it
        if not self.connection.executor.inline:
            flying.pace.note(held.queue, monotonic() - held.started_at)
        loop, here = self.connection.loop, threading.get_ident() == self._thread
        if not held.patient or requeue or not here or loop is None:
            self._try(lambda: flying.flush(self.run))
        elif not self._flush_planned:
            self._flush_planned = True
            loop.call_later(self.prefetch_span, self._flush_planned_acks)
        if here and not self.connection.executor.inline:
            self.pump()  # now, while the pool's turn of the loop is still to come

    def _flush_planned_acks(self) -> None:
        self._flush_planned = False
        if self.flying is not None and not self.closed and self.flying.pending.size:
            flying = self.flying
            self._try(lambda: flying.flush(self.run))

    def hand_back(self) -> None:
        """What has not started in time goes back, for another worker; the queue is slower than it looked."""
        flying = self.flying
        if flying is None or self.closed:
            return
        for queue in {held.queue for held in tuple(flying.buffer)}:
            flying.pace.note(queue, 10.0)
        self._try(lambda: flying.hand_back(self.run))

    def _try(self, job: Callable[[], Any]) -> None:
        """For what is repeated later when Redis is not there; the poller notices the loss by itself."""
        try:
            job()
        except (StoreError, *self.connection_errors, ResponseError) as error:
            logger.debug("put off: %r", error)

    # --- time and end ---------------------------------------------------------------------------

    def maintain(self) -> None:
        """Once a second. Without a beat helper the channel beats and sweeps by itself."""
        flying = self.flying
        if flying is None or self.closed or ROSTER.listener is not None:
            return
        if monotonic() - self._beaten_at >= self.beat:
            self._beaten_at = monotonic()
            self._try(lambda: self._beat(flying))
            self._try(lambda: self.run(flying.sweep(self.max_lost)))

    def _beat(self, flying: InFlight) -> None:
        if flying.incarnation is not None:
            try:
                self.run(flights.beat(self.hub_keys, flying.incarnation, flying.lease))
            except FencedError:
                flying.abandon()

    def _get(self, queue: str) -> dict[str, Any]:
        """One message for basic_get."""
        flying = self.settle()
        keys = [(self.queue_key(queue, step), 1) for step in self.priority_steps]
        incarnation = flying.incarnation or ""
        try:
            taken = self.run(flights.take(self.hub_keys, incarnation, flying.numbers(1), 1, keys))
        except BaseException:
            flying.abandon(incarnation)  # it may have been applied: settle returns what it took
            raise
        if not taken.messages:
            raise Empty
        held = flying.hold(incarnation, taken.messages[0], queue)
        message = read(held.raw)
        message["properties"]["delivery_tag"] = held.tag
        return message

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """One message, or None."""
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack:
            self.basic_ack(str(message.delivery_tag))
        return message

    def close(self) -> None:
        """Give back in one script everything that is not running; what runs moves on."""
        flying = self.flying
        if flying is not None and not self.closed:
            if self._watch is not None:
                self._watch.stop()
            self._intake.drop()
            if (client := self.__dict__.get("client")) is not None and client.connection is not None:
                client.connection.disconnect()
            self._in_poll = None
            dropped = self.connection.executor.dropped
            self._try(lambda: flying.leave(self.run, dropped() if dropped else None))
        super().close()

    def wake_loop(self) -> None:
        """Have the hub go round once more: called when something was started just before it polls."""
        # Kombu 5.7's hub does not look again by itself. The pool, whose turn may have been before ours, would
        # write nothing to its children before the next event, and callbacks of inline tasks would wait.
        loop = self.connection.loop if self.connection is not None else None
        waker = getattr(loop, "_waker", None)
        if waker is not None:
            waker.wake()

    def _guard_rest(self) -> None:
        """While a task runs inline nobody else can hand back what waits behind it."""
        if self._watch is None:
            self._watch = Watch(self)
            self._watch.start()
        self._watch.armed.set()


def _parked_as(message: dict[str, Any], key: str) -> str:
    """Its name among the parked: an exchange may give one message to several queues, under one tag."""
    return f"~{message['properties']['delivery_tag']}:{key}"
