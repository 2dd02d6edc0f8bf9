"""Listens on the Redis lists of queue triggers: each message leads to exactly one start (or event).

A message is always in exactly one place: in its list, in the record of the listener that took it, in the list
of those that a dead listener left, or in the poison list. Taking is one script; the default start (or event)
and the striking off of the message are one script too. A starter function runs between the two, and what it
asks for is keyed by the message (message.py). So a listener may be killed at any instant.

A message that is not JSON goes to `<queue>-poison` at once, with the reason; so does one that cannot be the
input of the trigger's orchestrator (or, for an event, names no instance). One that fails otherwise is tried
again after a growing delay, during which it stays in its listener's record and blocks nobody; after
`max_dequeue` tries it goes there too. Redis being away, or full, is not the message's fault and costs no try.

`QueueTriggers` is what a process hosts: one identity that beats, and one thread for each declared trigger.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import logging
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any

from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import CeleriacError, CodecError, RedisUnavailableError
from celeriac.orchestrations.triggers import QueueTrigger

from ..client.sync import Client, LimitError, LostListenerError, StoreError, TakenMessage, UnfitInputError
from ..complaints import Complaints
from .message import MessageClient

__all__ = ["QueueTriggers"]

logger = logging.getLogger("celeriac.triggers")

BATCH = 16  # messages taken at once
MOST_HELD = 1000  # failed messages that one listener keeps for another try
FIRST_DELAY = 0.25  # seconds before the second try; doubles
MAX_DELAY = 30.0
POLL = 1.0  # longest blocking wait, seconds
MAX_REASON = 2000
MAX_PAUSE = 5.0  # seconds between tries to reach Redis


class ListenerDiedError(Exception):
    """The starter seems to end the process for this message."""


class Identity:
    """Under which name this process takes messages. A name that was given up for dead is never used again."""

    def __init__(self, client: Client, queues: Sequence[str], lease: float) -> None:
        self._client, self._lease = client, lease
        self._info = {
            "kind": "listener",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": int(time.time() * 1000),
            "queues": list(queues),
        }
        self._renewing = threading.Lock()
        self.current = ""  # empty until the first beat

    def beat(self) -> None:
        """Keep the name; take a fresh one at first, and when it was lost because this process stood still."""
        operations = self._client.operations.queues
        with self._renewing:
            if self.current:
                try:
                    self._client.run(operations.beat(self.current, self._lease))
                    return
                except LostListenerError:
                    logger.warning("listener %s was taken for dead; others have its messages", self.current)
            self.current = self._client.run(operations.join(self._info, self._lease))

    def leave(self) -> None:
        """Give the name up; call it when nothing is held under it."""
        self._client.run(self._client.operations.queues.leave(self.current))


class QueueTriggers:
    """Every queue trigger of a process. `start()` returns at once; `stop()` gives everything back."""

    def __init__(
        self,
        client: Client,
        triggers: Sequence[QueueTrigger],
        *,
        first_delay: float = FIRST_DELAY,
        poll: float = POLL,
    ) -> None:
        settings = client.settings
        self._beat = settings.beat
        self._identity = Identity(client, [t.queue for t in triggers], settings.lease)
        self._stopping = threading.Event()
        self._ended = threading.Event()  # nothing is held any more: no need to beat
        self._listeners = [
            QueueListener(client, trigger, self._identity, self._stopping, first_delay, poll)
            for trigger in triggers
        ]
        self._threads: list[threading.Thread] = []
        self._keeper = threading.Thread(target=self._keep_alive, name="celeriac-triggers", daemon=True)

    def start(self) -> None:
        """Begin to listen. Without a declared trigger there is nothing to do."""
        if self._threads or not self._listeners:
            return
        self._threads = [
            threading.Thread(target=listener.run, name=f"celeriac-queue-{listener.queue}", daemon=True)
            for listener in self._listeners
        ]
        for thread in (self._keeper, *self._threads):
            thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop taking, let running starters end (up to `timeout` seconds), give back what is held."""
        self._stopping.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = [thread.name for thread in self._threads if thread.is_alive()]
        if late:
            # They keep beating; what they hold goes to others when this process is gone.
            logger.warning("still running after %g s: %s", timeout, ", ".join(late))
            return
        self._ended.set()
        if self._threads:
            self._keeper.join()
            self._sign_off()
        self._threads = []

    def _sign_off(self) -> None:
        try:
            if self._identity.current:
                self._identity.leave()
        except CeleriacError as error:
            logger.warning("listener %s could not sign off: %s", self._identity.current, error)

    def _keep_alive(self) -> None:
        trouble = Complaints(logger)
        while not self._ended.is_set():
            try:
                self._identity.beat()
            except CeleriacError as error:
                trouble.about("the listeners of this process could not beat: %s", error)
            else:
                trouble.over("the listeners of this process beat again")
            self._ended.wait(self._beat)


class QueueListener:
    """One trigger: takes its messages and handles them, one after another."""

    def __init__(
        self,
        client: Client,
        trigger: QueueTrigger,
        identity: Identity,
        stopping: threading.Event,
        first_delay: float,
        poll: float,
    ) -> None:
        self.queue = trigger.queue
        self._client, self._trigger, self._identity = client, trigger, identity
        self._operations = client.operations.queues
        self._stopping, self._first_delay, self._poll = stopping, first_delay, poll
        # A listener's death counts as a try for all that it holds; a starter may be what killed it.
        self._batch = 1 if trigger.starter is not None else BATCH
        self._held: list[tuple[float, int, TakenMessage]] = []  # failed, by the time of the next try
        self._todo: deque[TakenMessage] = deque()  # to be handled now
        self._order = itertools.count()
        self._unsure = False  # whether a reply was lost that may have been a taken message
        self._changes = 0  # of the server behind the client, as far as this listener has acted on them
        self._trouble = Complaints(logger)
        self._runner: asyncio.Runner | None = None

    def run(self) -> None:
        """Listen until the process stops."""
        pause = 0.1
        while not self._stopping.is_set():
            try:
                self._step()
                pause = 0.1
                self._trouble.over(f"queue {self.queue}: Redis answers again")
                continue
            except (RedisUnavailableError, StoreError) as error:
                self._trouble.about("queue %s: %s; trying again", self.queue, error)
                self._unsure = True
            except Exception as error:  # noqa: BLE001  nobody is above this thread, and the queue must go on
                trace = self._operations.seal.trace(error)
                logger.error("queue %s: the listener failed; it goes on\n%s", self.queue, trace)
            self._stopping.wait(random.uniform(pause / 2, pause))
            pause = min(MAX_PAUSE, pause * 2)
        self._give_back()
        if self._runner is not None:
            self._runner.close()

    def _step(self) -> None:
        """Handle what is due again, then what is new; wait when there is neither."""
        if not self._identity.current:
            self._stopping.wait(0.02)
            return
        if self._changes != self._client.server_changes:  # it may hold for us what we are done with
            self._changes, self._unsure = self._client.server_changes, True
        if self._unsure:
            self._look_up_own()
        self._release_due()
        room = min(self._batch, MOST_HELD - len(self._held)) if not self._todo else 0
        if room > 0:
            self._todo += self._take(room)
        if not self._todo:
            self._wait(room > 0)
        while self._todo and not self._stopping.is_set():
            self._handle(self._todo[0])
            self._todo.popleft()

    def _take(self, room: int) -> list[TakenMessage]:
        try:
            return self._client.run(self._operations.take(self.queue, self._identity.current, room))
        except LostListenerError:
            self._identity.beat()
            return []

    def _look_up_own(self) -> None:
        """After a lost reply: a take may have been applied, so ask what this listener holds."""
        seen = [*self._todo, *(message for _, _, message in self._held)]
        known = {(message.listener, message.number) for message in seen}
        mine = self._client.run(self._operations.held(self.queue, self._identity.current))
        self._todo += [message for message in mine if (message.listener, message.number) not in known]
        self._unsure = False

    def _wait(self, may_take: bool) -> None:
        """Until a message comes, a held one is due, or the time-out that covers a lost wake-up is over."""
        longest = self._poll
        if self._held:
            longest = min(longest, max(0.0, self._held[0][0] - time.monotonic()))
        if longest <= 0:
            return
        if may_take and longest >= 0.05:
            self._client.run(self._operations.wait(self.queue, longest))
        else:
            self._stopping.wait(longest)

    # --- one message -----------------------------------------------------------------------------

    def _handle(self, message: TakenMessage) -> None:
        try:
            if self._trigger.starter is not None and message.tries > self._trigger.max_dequeue:
                raise ListenerDiedError(f"the listener died in {message.tries - 1} tries of this message")
            self._lead_on(message)
        except LostListenerError:
            logger.info("queue %s: message %s went to another listener", self.queue, message.id)
        except LimitError as error:
            self._failed(message, error)  # e.g. the instance it names has too many events waiting
        except (RedisUnavailableError, StoreError):
            raise  # not the message's fault
        except BaseException as error:  # noqa: BLE001  a starter may raise anything, SystemExit too
            self._failed(message, error)

    def _lead_on(self, message: TakenMessage) -> None:
        """Do with the message what its trigger says, and strike it off."""
        try:
            value = codec.decode_foreign(message.text)
        except CodecError as error:
            self._give_up(message, error)  # it will never be JSON: further tries are of no use
            return
        if self._trigger.starter is not None:
            bound = MessageClient(self._client, self.queue, message.id, message.tries)
            result = self._trigger.starter(value, bound)
            if inspect.isawaitable(result):
                self._await(result)
            self._client.run(self._operations.done(message))
            return
        try:
            self._deliver(message, value)
        except UnfitInputError as error:
            self._give_up(message, error)  # nor will it ever fit

    def _deliver(self, message: TakenMessage, value: Any) -> None:
        """Start the trigger's orchestrator with the message, or raise the trigger's event."""
        trigger, operations = self._trigger, self._operations
        if trigger.orchestrator:
            self._client.run(operations.start(message, trigger.orchestrator, value, trigger.version or None))
        elif trigger.event:
            self._client.run(operations.raise_event(message, trigger.event, value))

    def _await(self, result: Awaitable[Any]) -> None:
        """An `async def` starter runs on the listener's own event loop."""

        async def outcome() -> None:
            await result

        if self._runner is None:
            self._runner = asyncio.Runner()
        self._runner.run(outcome())

    def _failed(self, message: TakenMessage, error: BaseException) -> None:
        """After the last try to the poison list; before it, hold the message and release it later."""
        reason = f"{type(error).__name__}: {self._operations.seal.masked(str(error)[:MAX_REASON])}"
        most = self._trigger.max_dequeue
        if message.tries >= most:
            self._give_up(message, error)
            return
        delay = min(MAX_DELAY, self._first_delay * 2 ** (message.tries - 1))
        logger.warning(
            "queue %s: message %s failed, try %d of %d, again in %.3g s: %s",
            self.queue, message.id, message.tries, most, delay, reason,
        )  # fmt: skip
        heapq.heappush(self._held, (time.monotonic() + delay, next(self._order), message))

    def _give_up(self, message: TakenMessage, error: BaseException) -> None:
        """To the poison list, with the reason."""
        kind, said, seal = type(error).__name__, str(error)[:MAX_REASON], self._operations.seal
        reason = f"{kind}: {seal.note(said)}"
        self._client.run(self._operations.back(message, max_tries=1, reason=reason))
        reason = f"{kind}: {seal.masked(said)}"
        logger.error(
            "queue %s: message %s goes to %s after %d tries: %s",
            self.queue, message.id, self._trigger.poison, message.tries, reason,
        )  # fmt: skip

    def _release_due(self) -> None:
        """What failed and has waited long enough may be taken again, by any listener, its try counted."""
        while self._held and self._held[0][0] <= time.monotonic():
            self._release(self._held[0][2])
            heapq.heappop(self._held)

    def _release(self, message: TakenMessage) -> None:
        most = self._trigger.max_dequeue
        self._client.run(self._operations.back(message, max_tries=most, reason="failed in its last try"))

    def _give_back(self) -> None:
        """At a stop: others may take at once what this listener holds."""
        try:
            for message in self._todo:
                self._client.run(self._operations.back(message))
            for _, _, message in self._held:
                self._release(message)
        except CeleriacError as error:
            logger.warning("queue %s: not all messages were given back: %s", self.queue, error)
        self._todo.clear()
        self._held.clear()
