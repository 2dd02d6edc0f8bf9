"""The orchestrator worker: claim, take turns, commit, in one loop.

Each tick is one pipeline: the commits of the last batch, the chores that are due (see chores.py) and the
claim of the next batch; then the turns of that batch are taken in memory (see turning.py). With nothing to
do the pipeline blocks on the wake list before it claims, until something becomes ready or a timer is due, a
second at most, so a lost wake-up costs a second.

What a failure costs. A commit that did not come back with OK: the live execution is dropped, and whoever
claims the instance next replays it. Redis away, or this process taken for dead while it stood still: the
loop tries again with growing, jittered pauses, hands back what was claimed in its name, and goes on under a
new name with an empty cache.

Imports neither celery nor redis.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from celeriac.orchestrations.errors import RedisUnavailableError
from celeriac.orchestrations.history import PartOutcome
from celeriac.orchestrations.registry import Registry

from ..complaints import Complaints
from ..messages import TaskId
from ..retrying import MessageMaker
from ..sealing import seal_of
from ..settings import Settings
from ..store import (
    Call,
    FencedError,
    Store,
    StoreError,
    StoreFullError,
    blocking,
    command,
    flights,
    steps,
    turns,
    views,
)
from ..store.records import Claimed, CommitReply
from .answers import Done, Served, Wait
from .audit import Audit
from .batches import Sending
from .charges import LastWords
from .chores import Chores
from .deadline import TurnGuard
from .lapses import Judge, Lapses
from .origin import Origin
from .payloads import staging
from .reading import Reader
from .turning import Turner
from .windows import World

logger = logging.getLogger("celeriac.orchestrator")

BATCH = 64  # instances claimed at once
OFFER_SLACK = 0.03  # seconds before an offer in which this process claims nothing
LONGEST_BLOCK = 1.0  # seconds the loop waits for a wake-up
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between tries to reach Redis


class OrchestratorWorker:
    """One orchestrator process. `run()` returns after `stop()`, which may be called from a signal handler."""

    def __init__(
        self,
        store: Store,
        emitter: MessageMaker,
        registry: Registry,
        settings: Settings,
        *,
        activities: Iterable[str] = (),
        about: Mapping[str, Any] | None = None,
        batch: int = BATCH,
    ) -> None:
        self._store, self._registry, self._settings, self._limit = store, registry, settings, batch
        self._keys, self._seal = store.keys, seal_of(settings)
        self._activities = set(activities)
        self._about = dict(about or {})  # what else this process says about itself
        self._served = Served(self._activities)
        self._stopping = False  # a plain flag: taking a lock in a signal handler can deadlock
        self.incarnation = ""
        self._claims = 0  # the number of the next claim of this incarnation
        self._answers: list[Done | Wait] = []  # turns taken and not yet sent
        self._chores = Chores(
            self._keys, settings.lease, settings.beat, settings.max_lost, lambda: self.incarnation,
            lambda: [answer.claimed.instance for answer in self._answers],
            stock=settings.transport == "stock",
        )  # fmt: skip
        self._origin = Origin(store)
        self._away, self._refusals = Complaints(logger), Complaints(logger)
        self._last_words = LastWords(settings)
        self._guard = TurnGuard(settings.slow_turn, settings.turn_deadline, last_words=self._last_words)
        world = World(emitter, settings, self._served.knows, self._seal)
        self._turner = Turner(
            self._keys, Reader(store, self._seal), registry, world, self._served, self._refresh_served,
            self._guard, self._chores.clock, self._beat_if_due,
        )  # fmt: skip
        judge = Judge(store, emitter, self._seal, self._chores.clock, settings.max_lost)
        self._lapses = Lapses(store, judge, self._seal, settings.max_lost)
        self._audit = Audit(store, emitter, judge, settings)
        self._offer_at = math.inf  # when an instance that others can run is ready again
        self._idle = False  # the last claim found nothing
        self.turns_taken = 0

    # --- life ---

    def run(self) -> None:
        """Work until `stop()`; then send what is finished, hand the rest back and leave."""
        self._guard.start()
        try:
            self._until_done(self._join)
            while not self._stopping:
                self._safely(self._tick if not self._origin.changed else self._start_over)
            self._leave()
        finally:
            self._turner.cache.clear()
            self._guard.stop()

    def stop(self) -> None:
        """End `run()` after the present batch."""
        self._stopping = True

    def _join(self) -> None:
        """Become known under a fresh name. What it serves is known before: who sees it can start that."""
        self._announce()
        self.incarnation = self._last_words.incarnation = f"o{secrets.token_hex(8)}"
        self._claims = 0
        info = {
            "kind": "orchestrator",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "python": sys.version.split()[0],
            "apps": list(self._settings.apps),
            "started": self._chores.clock.now(),
            **self._about,
        }
        self._store.run(
            flights.beat(
                self._keys,
                self.incarnation,
                int(self._settings.lease * 1000),
                info=json.dumps(info),
                join=True,
            )
        )
        self._chores.beaten()
        self._refresh_served()
        self._store.run(turns.rouse(self._keys))  # this process may serve what others only wait for
        logger.info("orchestrator %s joins %s", self.incarnation, self._settings.hub)

    def _announce(self) -> None:
        """Say what this process serves."""
        names = {f"o {name}": versions for name, versions in self._registry.names().items()}
        names |= {f"a {name}": [""] for name in self._activities}
        self._store.run(views.note_served(self._keys, names))

    def _refresh_served(self) -> None:
        """Read anew which names were ever served."""
        found = self._store.run(views.served(self._keys))
        self._served.orchestrators = {
            key[2:]: set(versions) for key, versions in found.items() if key[:2] == "o "
        }
        self._served.activities = {key[2:] for key in found if key[:2] == "a "}

    def _leave(self) -> None:
        """Send the last turns, hand back what is claimed, be forgotten. What fails is left to the sweep."""
        try:
            self._stage()
            sending = Sending(self._keys, self._settings, self._answers)
            self._settle(sending.replies(self._store, self._store.run_all(sending.calls())))
            while self._store.run(turns.hand_back(self._keys, self.incarnation)):
                logger.info("handed claims back")
            # Last of all the beat: who is listed there is found by the sweep, should this process die before.
            self._store.run(command("HDEL", self._keys.procs, self.incarnation))
            self._store.run(command("ZREM", self._keys.beats, self.incarnation))
        except (RedisUnavailableError, StoreError) as error:
            logger.warning("could not hand everything back, others take it over soon: %s", error)
        logger.info("orchestrator %s has stopped after %d turns", self.incarnation, self.turns_taken)

    # --- the loop ---

    def _tick(self) -> None:
        """One round: send what is finished, do the chores that are due, claim, take the turns."""
        self._stage()
        sending = Sending(self._keys, self._settings, self._answers)
        calls = sending.calls()
        chores = self._chores.due()
        sent = len(calls)
        calls += [chore.make() for chore in chores] or self._wait_for_work()
        offer_at = self._offer_at
        calls.append(self._claim_or_offer())
        offered = self._offer_at > offer_at
        replies = self._store.run_all(calls)
        self._settle(sending.replies(self._store, replies[:sent]))
        if not _any_full(replies):
            self._refusals.over("Redis takes writes again")
        refused = len(self._answers)
        claimed = replies[-1]
        self._idle = not claimed
        if not isinstance(claimed, Exception):
            self._answers += self._turner.take(claimed)
            self.turns_taken += len(claimed)
        for chore, reply in zip(chores, replies[sent:], strict=False):
            self._chores.take(chore, reply)
        if isinstance(claimed, Exception):
            raise claimed
        if refused and self._idle:
            self._pause(random.uniform(0.2, 0.6))
        if offered and self._idle:
            self._pause(OFFER_SLACK)  # or this process would take its own wake-up
        lapsed, found = self._chores.findings()
        self._lapses.judge(lapsed)
        self._audit.mend(found)

    def _claim_or_offer(self) -> Call[list[Claimed]]:
        """The claim of the next batch. Or, when an instance that others can run becomes ready again, a
        wake-up for one of them in its place: to claim now would only mean to get it once more.
        """
        soon = self._offer_at - time.monotonic()
        if soon <= OFFER_SLACK:
            time.sleep(max(0.0, soon))
            self._offer_at = math.inf
            return command("LPUSH", self._keys.wake, "1", decode=lambda _: [], idempotent=False)
        self._claims += self._limit
        return turns.claim(self._keys, self.incarnation, self._claims - self._limit, self._limit)

    def _wait_for_work(self) -> list[Call[Any]]:
        """After a claim that found nothing: a BRPOP, behind which the next claim waits in the same pipeline
        until something becomes ready, a chore is due, or a second has passed.
        """
        until_offer = self._offer_at - time.monotonic()
        if self._answers or not self._idle or self._stopping or until_offer <= OFFER_SLACK:
            return []
        timeout = min(until_offer - OFFER_SLACK, self._chores.idle_for(LONGEST_BLOCK))
        return [command("BRPOP", self._keys.wake, blocking(timeout), idempotent=False)]

    def _stage(self) -> None:
        """Put big payloads aside before the commits that refer to them, some MB a call."""
        calls: list[tuple[str, Call[int]]] = []
        for done in self._answers:
            if isinstance(done, Done) and done.draft.staged:
                commit = done.draft.commit
                calls += [(commit.instance, call) for call in staging(self._keys, commit, done.draft.staged)]
        lost: set[str] = set()
        for start in range(0, len(calls), 8):
            some = calls[start : start + 8]
            replies = self._store.run_all([call for _, call in some])
            for (instance, _), reply in zip(some, replies, strict=True):
                if isinstance(reply, Exception):
                    logger.warning("payloads of %s could not be staged: %s", instance, reply)
                    lost.add(instance)
        if lost:
            self._answers, answers = [], self._answers
            for answer in answers:
                if answer.claimed.instance in lost:
                    self._turner.let_go(answer)
                    answer = Wait(answer.claimed, 1000, "its payloads could not be stored")
                self._answers.append(answer)

    def _settle(self, replies: Sequence[Any]) -> None:
        """What became of the turns that were sent. What Redis refused for now is kept, to be sent again."""
        answers, self._answers = self._answers, []
        follow_ups: list[Call[Any]] = []
        for answer, reply in zip(answers, replies, strict=True):
            instance = answer.claimed.instance
            if isinstance(answer, Wait):
                if isinstance(reply, StoreFullError):
                    self._answers.append(answer)  # else it stays claimed for as long as this process lives
                elif isinstance(reply, Exception):
                    logger.info("%s was not handed back: %s", instance, reply)
                elif answer.offer:
                    self._offer_at = min(self._offer_at, time.monotonic() + answer.delay / 1000 + 0.005)
            elif isinstance(reply, CommitReply):
                self._committed(answer, reply)
                follow_ups += self._failed_parts(answer)
            elif isinstance(reply, FencedError):
                logger.info("the turn of %s is dropped: %s", instance, reply)
                self._turner.let_go(answer)
            else:
                self._turner.let_go(answer)
                self._answers.append(self._refused(answer.claimed, reply))
        follow_ups += [turns.accuse(self._keys, *accused) for accused in self._turner.accused]
        self._turner.accused = []
        for reply in self._store.run_all(follow_ups):
            if isinstance(reply, Exception):
                logger.info("not applied after a commit: %s", reply)

    def _refused(self, claimed: Claimed, reply: Exception) -> Wait:
        """Redis would not take the turn: others may try when it has memory again or somebody mended it."""
        full = isinstance(reply, StoreFullError)
        say = self._refusals.about if full else logger.error
        say("the turn of %s was refused: %s", claimed.instance, reply)
        return Wait(claimed, 5000 if full else 30_000, f"its turn was refused: {reply}")

    def _committed(self, done: Done, reply: CommitReply) -> None:
        self._origin.committed(done.draft.commit)
        if done.live is not None:
            self._turner.cache.put(done.claimed.instance, done.live)
        for _, due in done.draft.commit.timers:
            self._chores.timer_at(due)
        for target in reply.undelivered:
            logger.warning("%s sent an event to %s, which does not run", done.claimed.instance, target)

    def _failed_parts(self, done: Done) -> list[Call[Any]]:
        """Parts of a group that nobody can run: failed at once, their messages are dropped when taken."""
        return [self._fail_part(task, index, outcome) for task, _, index, outcome in done.draft.failed_parts]

    def _fail_part(self, task: TaskId, index: int, outcome: PartOutcome) -> Call[Any]:
        return steps.complete(
            self._keys, task.instance, task.execution, task.seq, task.attempt,
            success=False, text=self._seal.open_text(outcome), index=index,
        )  # fmt: skip

    # --- when things go wrong ---

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except RedisUnavailableError as error:
            self._until_done(self._start_over, error)
        except FencedError as error:
            logger.warning("orchestrator %s was taken for dead, going on anew: %s", self.incarnation, error)
            self._until_done(self._start_over)
        except StoreError as error:
            # Redis is full, read-only or loading: nothing can be done but to try again, not too fast.
            self._refusals.about("Redis refuses, trying again: %s", error, level=logging.ERROR)
            self._pause(random.uniform(0.5, 1.5))
        except Exception:
            # A defect of ours. To end would leave it to a process with the same defect, and charge instances.
            logger.exception("unexpected error, going on anew")
            self._pause(random.uniform(0.5, 1.5))
            self._until_done(self._start_over)

    def _start_over(self) -> None:
        """Hand back whatever was claimed, and go on under a new name with nothing in memory.

        Turns taken and not sent are dropped: taking them again gives the same. And Redis may have come back
        with an older state than the live executions hold.
        """
        self._turner.cache.clear()
        answers, self._answers = self._answers, []
        for answer in answers:
            self._turner.let_go(answer)
        self._origin.note()
        while self._store.run(turns.hand_back(self._keys, self.incarnation)):
            logger.info("handed claims back")
        self._join()
        self._chores.renewed()

    def _until_done(self, work: Callable[[], None], error: Exception | None = None) -> None:
        """Do `work`, however long Redis is away, or until asked to stop."""
        pause = FIRST_PAUSE
        while not self._stopping:
            if error is not None:
                self._away.about("Redis is away, trying again: %s", error)
                self._pause(random.uniform(pause / 2, pause))
                pause = min(LONGEST_PAUSE, pause * 2)
            try:
                work()
                self._away.over("Redis answers again")
                return
            except (RedisUnavailableError, StoreError) as again:
                error = again

    def _pause(self, seconds: float) -> None:
        """Wait, but not on when asked to stop."""
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _beat_if_due(self) -> None:
        """Between the turns of a long batch. That the beat was refused shows at the next tick."""
        if self._chores.overdue_beat():
            self._store.run_all(
                [flights.beat(self._keys, self.incarnation, int(self._settings.lease * 1000))]
            )
            self._chores.beaten()


def _any_full(replies: Sequence[Any]) -> bool:
    return any(isinstance(reply, StoreFullError) for reply in replies)
