"""What an orchestrator does beside taking turns: beat, fire timers, promote retries, sweep after the dead,
look for what was lost, keep time.

One of them looks at the process' own claims: those it does not know of (Redis went back to a state in
which they were held) are handed back, or nobody could take them for as long as it lives.

Each chore is one bounded call that rides in the pipeline of the loop when it is due. Nothing here has a
thread of its own, so a loop that does not tick does not beat.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..store import Call, Keys, StoreError, audit, command, flights, turns
from ..store.audit import AuditReport
from ..store.records import Lapsed, SweepReport

logger = logging.getLogger("celeriac.orchestrator")

LIMIT = 100  # of anything, in one call
LOOK_EVERY = (
    1.0  # seconds after which timers and parked messages are looked at though none was known to be due
)
CLOCK_EVERY = 10.0
CLAIMS_EVERY = 10.0  # seconds at most for which a claim that we do not know of stays with us
SOONEST = 0.002  # seconds, should this clock be ahead of Redis'
AGAIN = 0.05  # seconds until the next call of a chore that has more to do
AFTER_REFUSAL = 5.0  # seconds until the audit is tried again that Redis refused: nothing waits for it

NOTHING_FOUND = AuditReport(0)


class Clock:
    """Redis' time without asking for it: its distance from this process' own clock is measured now and
    then."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return int((time.monotonic() + self._ahead) * 1000)

    def set(self, reply: Any) -> None:
        """Take the reply to TIME."""
        self._ahead = int(reply[0]) + int(reply[1]) / 1e6 - time.monotonic()

    def when(self, due: int) -> float:
        """The monotonic time at which Redis' clock shows `due`; a little later, so that it is truly due."""
        return due / 1000 - self._ahead + 0.001


@dataclasses.dataclass(slots=True)
class _Chore:
    make: Callable[[], Call[Any]]
    take: Callable[[Any], float]  # the reply -> when (monotonic) it is due again
    due: float = 0.0


class Chores:
    """The chores of one loop."""

    def __init__(
        self,
        keys: Keys,
        lease: float,
        beat: float,
        max_lost: int,
        incarnation: Callable[[], str],
        known: Callable[[], Sequence[str]],
        *,
        stock: bool = False,
    ) -> None:
        self.clock = Clock()
        self.found = NOTHING_FOUND  # what the audit found, to be acted on by the loop
        self.lapsed: list[Lapsed] = []  # deadlines that passed, to be judged by the loop
        self._beat_every, lease_ms = beat, int(lease * 1000)
        self._timers = _Chore(lambda: turns.fire_timers(keys, LIMIT), self._look_again)
        self._promotion = _Chore(lambda: flights.promote(keys, LIMIT), self._look_again)
        self._beat = _Chore(
            lambda: flights.beat(keys, incarnation(), lease_ms), lambda _: time.monotonic() + beat
        )
        self._audit = _Chore(lambda: audit.audit(keys, stock=stock), self._audited)
        self._all = (
            self._beat,
            _Chore(lambda: command("TIME"), self._set_clock),
            self._timers,
            self._promotion,
            _Chore(
                lambda: flights.sweep_flights(keys, 2 * LIMIT, lease=lease_ms, max_lost=max_lost),
                self._swept_flights,
            ),
            _Chore(lambda: turns.sweep(keys, LIMIT, lease_ms), self._swept),
            _Chore(
                lambda: turns.hand_back(keys, incarnation(), LIMIT, known()),
                self._claims_checked,
                time.monotonic() + CLAIMS_EVERY * random.random(),
            ),
            self._audit,
        )

    def due(self) -> list[_Chore]:
        """What is to be done now."""
        now = time.monotonic()
        return [chore for chore in self._all if chore.due <= now]

    def take(self, chore: _Chore, reply: Any) -> None:
        """The reply to a chore's call. A refusal is raised: the loop knows what to do about it."""
        if chore is self._audit and isinstance(reply, StoreError):
            logger.warning("the audit was refused, trying again in %g s: %s", AFTER_REFUSAL, reply)
            chore.due = time.monotonic() + AFTER_REFUSAL
            return
        if isinstance(reply, Exception):
            chore.due = time.monotonic() + LOOK_EVERY
            raise reply
        chore.due = chore.take(reply)

    def findings(self) -> tuple[list[Lapsed], AuditReport]:
        """What the last chores found and the loop must act on; once."""
        (lapsed, self.lapsed), (found, self.found) = (self.lapsed, []), (self.found, NOTHING_FOUND)
        return lapsed, found

    def overdue_beat(self) -> bool:
        """Is it time to beat, in the middle of a long batch?"""
        return self._beat.due <= time.monotonic()

    def beaten(self) -> None:
        """The process has beaten by other ways."""
        self._beat.due = time.monotonic() + self._beat_every

    def timer_at(self, due: int) -> None:
        """A timer was made that may be the next."""
        self._timers.due = min(self._timers.due, self.clock.when(due))

    def idle_for(self, longest: float) -> float:
        """Seconds until the next chore, at most `longest`."""
        return max(0.0, min(longest, min(chore.due for chore in self._all) - time.monotonic()))

    def renewed(self) -> None:
        """Redis is another one, or has another name for us: its clock and what is due are looked at anew."""
        for chore in self._all:
            chore.due = 0.0

    def _claims_checked(self, back: int) -> float:
        if back:
            logger.warning("handed back %d claims in this process' name that it knew nothing of", back)
        return time.monotonic() + CLAIMS_EVERY * random.uniform(0.5, 1.0)

    def _look_again(self, reply: tuple[int, int]) -> float:
        moved, next_due = reply
        now = time.monotonic()
        if moved >= LIMIT:
            return now
        look = now + LOOK_EVERY * random.uniform(0.8, 1.2)  # so that processes do not keep in step
        if next_due <= 0:
            return look
        return min(look, max(now + SOONEST, self.clock.when(next_due)))

    def _set_clock(self, reply: Any) -> float:
        self.clock.set(reply)
        return time.monotonic() + CLOCK_EVERY

    def _swept_flights(self, swept: flights.Swept) -> float:
        return time.monotonic() + (AGAIN if swept.returned else LOOK_EVERY)

    def _swept(self, report: SweepReport) -> float:
        self.lapsed += report.lapsed
        return time.monotonic() + (AGAIN if report.more else LOOK_EVERY)

    def _audited(self, report: AuditReport) -> float:
        if report.mended or report.suspects:
            self.found = report
        # A little late, and each process by another amount: the first one to come does it for all.
        return time.monotonic() + max(SOONEST, report.wait / 1000) * random.uniform(1.0, 1.3)
