"""What this process holds of a broker: messages taken and not started, running, acknowledged but not yet
told to Redis.

An `InFlight` outlives the channel that uses it: an activity that started before a connection was lost is
acknowledged after it. While no channel uses it, it waits in `IDLE` for the next one to the same broker.
Its incarnation (the name of its flight record in Redis) is given up whenever a reply may have been lost;
`settle` then moves what runs to a new one and returns the rest, in one script.

Does no IO of its own: methods that need Redis are given `run`, which sends one call of `store.flights`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import ClassVar, Protocol, TypeVar

from ..store import flights
from ..store.flights import Taken
from ..store.keys import Keys
from ..store.scripts import Call
from .envelope import STEP_MARK
from .prefetch import Pace

__all__ = ["ROSTER", "Held", "InFlight", "Pending", "Roster", "Run"]

logger = logging.getLogger("celeriac.transport")
T = TypeVar("T")

HAND_BACK_AFTER = 1.0  # seconds: what has not started by then goes back, for another worker
FLUSH_AFTER = 0.05  # seconds an acknowledgement may wait for company
FLUSH_COUNT = 50


class Run(Protocol):
    """Sends one call to Redis and returns its decoded reply."""

    def __call__(self, call: Call[T], /) -> T:
        """Send it; raises what it was refused with, or that Redis is not there."""
        ...


class Roster:
    """The incarnations of this process that somebody has to beat for; tells its listener when they change."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.listener: Callable[[set[str]], None] | None = None

    def add(self, name: str) -> None:
        """From now on this incarnation needs a beat."""
        self.names.add(name)
        self._tell()

    def discard(self, name: str) -> None:
        """It needs none any more."""
        self.names.discard(name)
        self._tell()

    def _tell(self) -> None:
        if self.listener is not None:
            self.listener(set(self.names))


ROSTER = Roster()
_numbers = count(1)  # fields of flight records; never used twice in a process


@dataclass(slots=True)
class Held:
    """One message in our hands."""

    number: int
    queue: str
    incarnation: str
    raw: bytes
    taken_at: float
    ours: bool  # a message of the engine: running it twice is harmless to its step
    started_at: float = 0.0
    patient: bool = False  # its acknowledgement may wait for company

    @property
    def tag(self) -> str:
        """The delivery tag under which Celery knows it."""
        return str(self.number)


@dataclass(slots=True)
class Pending:
    """Acknowledgements and returns not yet told to Redis, by incarnation."""

    acks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    returns: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    since: float = 0.0
    size: int = 0

    def add(self, where: dict[str, list[int]], held: Held) -> None:
        """Remember one more."""
        where[held.incarnation].append(held.number)
        self.since = self.since or monotonic()
        self.size += 1

    def calls(self, keys: Keys) -> list[Call[int]]:
        """What to send; all of it may be sent twice."""
        acks = [flights.ack(keys, name, numbers) for name, numbers in self.acks.items()]
        returns = [flights.give_back(keys, name, n, head=False) for name, n in self.returns.items()]
        return acks + returns

    def merge(self, other: Pending) -> None:
        """Take over what could not be sent."""
        for mine, theirs in ((self.acks, other.acks), (self.returns, other.returns)):
            for name, numbers in theirs.items():
                mine[name].extend(numbers)
        self.since = self.since or other.since
        self.size += other.size


class InFlight:
    """The messages of one broker and hub in this process. At most one open channel uses it at a time."""

    IDLE: ClassVar[dict[tuple[str, str], list[InFlight]]] = defaultdict(list)

    def __init__(self, broker: str, keys: Keys, lease: int, pace: Pace) -> None:
        self.name = (broker, keys.hub)
        self.keys, self.lease, self.pace = keys, lease, pace
        self.lock = threading.RLock()
        self.incarnation: str | None = None
        self.buffer: deque[Held] = deque()
        self.running: dict[str, Held] = {}
        self.pending = Pending()
        self._telling: list[Pending] = []  # drawn, and perhaps not yet applied
        self._late: dict[str, list[int]] = defaultdict(list)  # acknowledged while their name was given up
        self._moved: dict[str, set[int]] = defaultdict(set)  # perhaps, by adoptions whose replies were lost
        self._stale: set[str] = set()
        self._heir = ""  # minted for an adoption whose reply we have not seen: the next try must use the same

    @classmethod
    def resume(cls, broker: str, keys: Keys, lease: int, pace: Pace) -> InFlight:
        """The one an earlier channel left behind, else a new one."""
        idle = cls.IDLE[(broker, keys.hub)]
        return idle.pop() if idle else cls(broker, keys, lease, pace)

    # --- taking ---------------------------------------------------------------------------------

    def settle(self, run: Run) -> str:
        """The incarnation to take under: gives up the old ones properly, and announces a new one when
        there is none.
        """
        with self.lock:
            for old in sorted(self._stale):
                self._give_up(old, run)
            if self.incarnation is None:
                name = _mint()
                run(flights.beat(self.keys, name, self.lease, join=True))
                self._use(name)
            return self.incarnation or ""

    def numbers(self, n: int) -> int:
        """Reserve n field numbers; returns the one before the first."""
        first = next(_numbers)
        for _ in range(n - 1):
            next(_numbers)
        return first - 1

    def took(self, incarnation: str, taken: Taken, queues: list[str]) -> None:
        """A take succeeded. If its incarnation was abandoned meanwhile, `settle` returns what it took."""
        now = monotonic()
        with self.lock:
            if incarnation != self.incarnation:
                return
            for number, queue, message in taken.messages:
                self.buffer.append(
                    Held(number, queues[queue], incarnation, message, now, STEP_MARK in message)
                )

    def hold(self, incarnation: str, message: tuple[int, int, bytes], queue: str) -> Held:
        """One message taken by itself; it counts as running."""
        now, ours = monotonic(), STEP_MARK in message[2]
        held = Held(message[0], queue, incarnation, message[2], now, ours, now)
        with self.lock:
            self.running[held.tag] = held
        return held

    @property
    def unsettled(self) -> bool:
        """Whether an incarnation waits to be given up."""
        return bool(self._stale)

    def next(self, room: int) -> Held | None:
        """The next message to start, if there is room; it counts as running from here on."""
        with self.lock:
            if not self.buffer or len(self.running) >= room:
                return None
            held = self.buffer.popleft()
            held.started_at = monotonic()
            self.running[held.tag] = held
            return held

    def overdue_in(self) -> float | None:
        """In how many seconds the oldest message not started has to go back; None without one."""
        with self.lock:
            return self.buffer[0].taken_at + HAND_BACK_AFTER - monotonic() if self.buffer else None

    def hand_back(self, run: Run, queue: str | None = None) -> int:
        """Return what has not started (of one queue, or all) to the head of its queue."""
        with self.lock:
            back = [held for held in self.buffer if queue in (None, held.queue)]
            stay = [held for held in self.buffer if queue not in (None, held.queue)]
            self.buffer = deque(stay)
            grouped: dict[str, list[int]] = defaultdict(list)
            for held in back:
                grouped[held.incarnation].append(held.number)
        for name, numbers in grouped.items():
            try:
                run(flights.give_back(self.keys, name, numbers, head=True))
            except BaseException:
                self.abandon(name)  # settle returns them
                raise
        return len(back)

    # --- finishing ------------------------------------------------------------------------------

    def finish(self, tag: str, *, requeue: bool = False) -> Held | None:
        """Acknowledged, or to go back to its queue. None for a tag we do not hold (any more)."""
        with self.lock:
            held = self.running.pop(tag, None)
            if held is not None:
                self.pending.add(self.pending.returns if requeue else self.pending.acks, held)
                if held.incarnation in self._stale and not requeue:
                    self._late[held.incarnation].append(held.number)
            return held

    def forget(self, tag: str) -> None:
        """The message has left the flight record by another way."""
        with self.lock:
            self.running.pop(tag, None)

    def set_aside(self, run: Run, tag: str, reason: str) -> bool:
        """A started message cannot be read: kept in Redis for whoever looks; a step's is made anew by the
        audit. False if it is not ours any more.
        """
        held = self.running.get(tag)
        if held is None:
            return False
        logger.error("a message in queue %r cannot be read and was set aside: %s", held.queue, reason)
        run(flights.set_aside(self.keys, held.incarnation, held.number, reason))
        self.forget(tag)
        return True

    def flush_due(self) -> bool:
        """Whether acknowledgements have waited long enough, or are many."""
        pending = self.pending
        return pending.size >= FLUSH_COUNT or (
            pending.size > 0 and monotonic() - pending.since >= FLUSH_AFTER
        )

    def draw(self) -> Pending:
        """What is to be told to Redis; hand it to `told` when that is done, or to `undraw` when it fails.

        Meanwhile another thread may give the incarnation up: then an adoption that did not know of these
        acknowledgements would return messages that are done with.
        """
        with self.lock:
            pending, self.pending = self.pending, Pending()
            self._telling.append(pending)
            return pending

    def told(self, pending: Pending) -> None:
        """Redis has applied it."""
        with self.lock:
            self._telling = [other for other in self._telling if other is not pending]

    def undraw(self, pending: Pending) -> None:
        """It could not be told."""
        with self.lock:
            self.told(pending)
            self.pending.merge(pending)

    def flush(self, run: Run) -> None:
        """Tell Redis now. On failure nothing is forgotten."""
        pending = self.draw()
        try:
            for call in pending.calls(self.keys):
                run(call)
        except BaseException:
            self.undraw(pending)
            raise
        self.told(pending)

    def sweep(self, max_lost: int) -> Call[flights.Swept]:
        """The call that looks for dead workers of the hub."""
        return flights.sweep_flights(self.keys, lease=self.lease, max_lost=max_lost)

    # --- leaving --------------------------------------------------------------------------------

    def abandon(self, incarnation: str | None = None) -> None:
        """No more takes under this incarnation: a reply may be lost, or its lease lapsed.

        `settle` does the rest.
        """
        with self.lock:
            name = incarnation or self.incarnation
            if name is None:
                return
            self._stale.add(name)
            if name == self.incarnation:
                self.incarnation = None
            self.buffer = deque(held for held in self.buffer if held.incarnation != name)

    def leave(self, run: Run, dropped: Iterable[str] | None) -> None:
        """The channel closes.

        `dropped` are the tags of started messages that will not be finished; None: all of them.
        """
        with self.lock:
            for tag in list(self.running) if dropped is None else list(dropped):
                self.running.pop(tag, None)
            self.abandon()
            if self not in self.IDLE[self.name]:
                self.IDLE[self.name].append(self)
            for old in sorted(self._stale):
                self._give_up(old, run)

    def _give_up(self, old: str, run: Run) -> None:
        keep = {held.number: held for held in self.running.values() if held.incarnation == old}
        if keep and self.incarnation is None:
            self._heir = self._heir or _mint()
        left = self._moved[old] - keep.keys()
        new = self.incarnation or (self._heir if keep or left else "")
        acked = self._acked(old)
        self._moved[old] |= keep.keys()
        call = flights.adopt(self.keys, old, new, keep=keep, acked=acked, left=left, lease=self.lease)
        kept = run(call)
        del self._moved[old]
        self._late.pop(old, None)
        # What a task rejected was given back with the rest; only the acknowledgements were ours to tell.
        told = len(self.pending.acks.pop(old, [])) + len(self.pending.returns.pop(old, []))
        self.pending.size -= told
        for number, held in keep.items():
            if number in kept:
                held.incarnation = new
            else:  # the lease had lapsed: another worker has it, and an acknowledgement means nothing
                self.running.pop(held.tag, None)
        self._stale.discard(old)
        ROSTER.discard(old)
        if new and self.incarnation is None:
            self._use(new)

    def _acked(self, incarnation: str) -> list[int]:
        """What is done with under this name, as far as Redis may not know it yet."""
        untold = [n for some in (self.pending, *self._telling) for n in some.acks.get(incarnation, ())]
        return [*untold, *self._late.get(incarnation, ())]

    def _use(self, name: str) -> None:
        self.incarnation, self._heir = name, ""
        ROSTER.add(name)


def _mint() -> str:
    return "w" + os.urandom(8).hex()


def _after_fork() -> None:
    """A forked child holds nothing: the messages stay its parent's."""
    InFlight.IDLE.clear()
    ROSTER.names.clear()
    ROSTER.listener = None


os.register_at_fork(after_in_child=_after_fork)
