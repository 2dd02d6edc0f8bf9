"""From claimed instances to what is sent back: continue or replay each, and translate its turn.

All reads of a batch come first (see reading.py), then author code runs, under the guard. Whatever goes
wrong with one instance concerns that one: it is answered with a commit that fails it, or handed back to
wait for a reason that its status shows.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence, Set

from celeriac.orchestrations.errors import (
    LimitExceededError,
    NonDeterminismError,
    PayloadTooLargeError,
    SealedPayloadError,
    UnknownNameError,
    failure_from,
)
from celeriac.orchestrations.history import OUTSIDE, ExecutionStarted
from celeriac.orchestrations.registry import OrchestratorDefinition, Registry
from celeriac.orchestrations.replay import Execution, Turn

from ..sealing import hidden
from ..store import Keys, LimitError, turns
from ..store.records import Claimed
from .answers import Done, Served, Wait
from .cache import Live, LiveCache
from .charges import charged, condemned
from .chores import Clock
from .deadline import TurnDeadlineError, TurnGuard
from .jobs import Job, portions, source_file
from .limits import over_history, too_many, warn_of_history
from .payloads import RunPayloads
from .reading import Need, Reader
from .turns import FULL, Draft, failed, merge, translate
from .windows import Run, World, emit_window
from .words import unserved_orchestrator

logger = logging.getLogger("celeriac.orchestrator")

SLICE = 100  # inbox items applied before the size of the turn is looked at
UNSERVED_GRACE = 5.0  # seconds for which an orchestrator that nobody ever served is waited for
KNOWN_ELSEWHERE = 100  # ms until an instance that others can run is offered to them, doubled each time
ELSEWHERE_LONGEST = 2000
UNSERVED_LONGEST = 5000  # ms between two tries of an instance that nobody here can run
LONGEST_WAIT = 60_000  # ms between two tries of an instance whose code does not fit its history
PER_EVENT = 1e-4  # seconds that each event to be replayed adds to the deadline of a turn
REMEMBERED = 10_000  # waiting instances whose number of tries is remembered


class Turner:
    """Takes the turns of one process. `refresh` reads anew what is served."""

    def __init__(
        self,
        keys: Keys,
        reader: Reader,
        registry: Registry,
        world: World,
        served: Served,
        refresh: Callable[[], None],
        guard: TurnGuard,
        clock: Clock,
        tick: Callable[[], None],
    ) -> None:
        self._keys, self._reader, self._registry, self._world = keys, reader, registry, world
        self._seal = world.seal
        self._served, self._refresh, self._guard = served, refresh, guard
        self._clock, self._tick = clock, tick
        self.cache = LiveCache(world.settings.cache_size, self._discard)
        self.accused: list[tuple[str, str]] = []  # (instance, execution) that could not be let go of
        self._tries: OrderedDict[str, int] = OrderedDict()
        self._first_seen: OrderedDict[str, float] = OrderedDict()

    def take(self, claimed: Sequence[Claimed]) -> list[Done | Wait]:
        """One answer for each claimed instance."""
        answers: list[Done | Wait] = []
        jobs: list[Job] = []
        for one in claimed:
            job = self._job(one)
            if isinstance(job, Job):
                jobs.append(job)
            else:
                answers.append(job)
        for portion in portions(jobs):
            self._read(portion)
            for job in portion:
                self._tick()
                answers.append(self._turn(job))
        return answers

    def _read(self, jobs: Sequence[Job]) -> None:
        """The histories of what is not live, then what all these turns will ask for."""
        cold = [job for job in jobs if job.live is None and job.claimed.history_length]
        histories = self._reader.histories([job.claimed.instance for job in cold])
        for job, history in zip(cold, histories, strict=True):
            if isinstance(history, Exception):
                job.need.error = history
            else:
                job.history, job.size = history
                job.need.payloads.note(job.history)
                job.need.events = [*job.history, *job.events]
        self._reader.prepare([job.need for job in jobs])

    # --- who runs it, and what there is to apply ---

    def _job(self, claimed: Claimed) -> Job | Done | Wait:
        if claimed.crashes >= self._world.settings.max_crashes:
            return condemned(claimed)
        definition = self._definition(claimed)
        if definition is None:
            return self._unserved(claimed)
        try:
            controls = [self._seal.decode(item) for item in claimed.controls]
            events, at, wanting = list(controls), [], {}
            for i, item in enumerate(claimed.inbox):
                if item[:1] == b"E":
                    wanting[i] = int(item[1:])
                else:
                    events.append(self._seal.decode(item))
                    at.append(i)
        except (ValueError, SealedPayloadError) as error:
            return self._wait(claimed, f"its inbox cannot be read here: {error}", UNSERVED_LONGEST)
        live = self.cache.take(claimed.instance, claimed.execution, claimed.history_length, claimed.last)
        payloads = (
            live.payloads
            if live is not None
            else RunPayloads(claimed.execution, self._reader.texts, self._reader.outcomes)
        )
        if over := over_history(claimed, live.size if live else 0, controls, self._world.settings):
            if live is not None:
                self._discard(claimed.instance, live)
            return self._full(claimed, over)
        need = Need(claimed.execution, payloads, events, list(wanting.values()))
        return Job(claimed, definition, events, at, wanting, live, [], need)

    def _definition(self, claimed: Claimed) -> OrchestratorDefinition | None:
        """An instance that has begun stays with the version it began with, be it none."""
        if claimed.history_length or claimed.run:
            return self._registry.exact(claimed.name, claimed.version)
        return self._registry.get(claimed.name, claimed.version)

    def _unserved(self, claimed: Claimed) -> Done | Wait:
        version = f" version {claimed.version!r}" if claimed.version else ""
        reason = f"no orchestrator worker that is running serves {claimed.name!r}{version}"
        elsewhere = self._served.orchestrators.get(claimed.name)
        if elsewhere is None and self._registry.get(claimed.name) is None:
            first = self._first_seen.setdefault(claimed.instance, time.monotonic())
            _bound(self._first_seen)
            if time.monotonic() - first > UNSERVED_GRACE and claimed.history_length == 0:
                self._refresh()
                if claimed.name not in self._served.orchestrators:
                    self._first_seen.pop(claimed.instance, None)
                    return self._fail_unstarted(
                        claimed, UnknownNameError(unserved_orchestrator(claimed.name))
                    )
            return Wait(claimed, 1000, reason)
        if elsewhere and (claimed.version in elsewhere or not claimed.version):
            delay = min(ELSEWHERE_LONGEST, KNOWN_ELSEWHERE << min(self._count(claimed), 10))
            return Wait(claimed, _jittered(delay), f"{reason} here; it is offered to others", offer=True)
        return self._wait(claimed, reason, longest=UNSERVED_LONGEST)

    def _fail_unstarted(self, claimed: Claimed, error: Exception) -> Done | Wait:
        """End an instance that has no code: its start is recorded, and that it failed."""
        try:
            started = self._seal.decode(claimed.inbox[0])
        except (ValueError, IndexError, SealedPayloadError) as problem:
            return self._wait(claimed, f"its start cannot be read: {problem}")
        if not isinstance(started, ExecutionStarted):
            return self._wait(claimed, "its inbox does not begin with its start")
        draft = failed(self._run(claimed, started, ""), [started], failure_from(error), self._seal)
        draft.commit.inbox = 1
        return self._done(claimed, draft, None)

    # --- the turn ---

    def _turn(self, job: Job) -> Done | Wait:
        claimed = job.claimed
        if job.need.error is None:
            over = over_history(claimed, job.size, job.events, self._world.settings)
            answer = self._full(claimed, over) if over else self._taken(job)
        else:
            answer = self._wait(claimed, f"its history or payloads cannot be read: {job.need.error}")
        live = job.live
        if live is not None and (claimed.alone or not isinstance(answer, Done) or answer.live is not live):
            verdict = self._close(claimed.instance, live, claimed.claim)
            if isinstance(answer, Done) and answer.live is live:  # alone: it is not kept
                answer = dataclasses.replace(answer, live=None)
            if verdict and not (isinstance(answer, Done) and answer.draft.ends):
                answer = charged(claimed, verdict, self._world.settings)
        job.need.payloads.forget()
        if isinstance(answer, Done):
            self._tries.pop(claimed.instance, None)
        return answer

    def _taken(self, job: Job) -> Done | Wait:
        """The turn, or why it cannot be taken."""
        claimed, settings = job.claimed, self._world.settings
        definition = job.definition
        try:
            with self._guard.watch(
                claimed.instance, claimed.execution, definition.name, source_file(definition), claimed.claim,
                len(job.history) * PER_EVENT,
            ) as watched:  # fmt: skip
                live, turn = self._apply(job)
            if watched.verdict:  # the code went on all the same; that depends on the time it took
                return charged(claimed, watched.verdict, settings)
            return self._answer(job, live, turn)
        except LimitExceededError as error:
            return self._over_limit(job, error)
        except NonDeterminismError as error:
            return self._wait(claimed, self._seal.note(str(error)))
        except SealedPayloadError as error:
            return self._wait(claimed, str(error), UNSERVED_LONGEST)
        except TurnDeadlineError as error:
            self._guard.rest()
            return charged(claimed, str(error), settings)
        except MemoryError:
            return charged(claimed, f"a turn of {claimed.name} ran out of memory", settings)
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001  the author's
            said, trace = self._seal.note(str(error)), self._seal.trace(error)
            logger.error("the turn of %s (%s) could not be taken\n%s", claimed.instance, claimed.name, trace)
            return self._wait(claimed, f"its turn cannot be taken: {type(error).__name__}: {said}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  not an Exception, so nothing below would stop it
            what = f"a turn of {claimed.name} raised {type(error).__name__}, which is no Exception"
            return charged(claimed, f"{what}: {self._seal.note(str(error))}", settings)

    def _over_limit(self, job: Job, error: LimitExceededError) -> Done | Wait:
        """End an instance whose code asked for too much to be committed: what it was told is recorded."""
        claimed, live = job.claimed, job.live
        if live is None:
            return self._wait(claimed, str(error))
        outside = [event for event in job.events if isinstance(event, OUTSIDE)]
        draft = failed(self._run(claimed, live.started, ""), outside, failure_from(error), self._seal)
        draft.commit.controls, draft.commit.inbox = len(claimed.controls), len(claimed.inbox)
        return self._done(claimed, draft, None)

    def _answer(self, job: Job, live: Live, turn: Turn) -> Done | Wait:
        """What the turn means for the store."""
        claimed = job.claimed
        pinned = job.definition.version if not claimed.history_length and not claimed.version else ""
        run = self._run(claimed, live.started, pinned)
        refused = too_many(turn, live.execution.open_steps, self._world.settings.max_open)
        draft = self._translate(turn, run, refused)
        live.size += sum(map(len, draft.commit.events))
        warn_of_history(claimed, draft.commit, self._world.settings)
        live.payloads.note(draft.recorded)
        self._consume(job, turn, draft, run)
        live.last = claimed.claim  # kept only when this commit is applied
        return self._done(claimed, draft, None if draft.ends else live)

    def let_go(self, answer: Done | Wait) -> None:
        """An answer that was not applied: its execution must not be continued."""
        if isinstance(answer, Done) and answer.live is not None:
            self._discard(answer.claimed.instance, answer.live)

    def _discard(self, instance: str, live: Live) -> None:
        if self._close(instance, live):
            self.accused.append((instance, live.run))

    def _close(self, instance: str, live: Live, claim: str = "") -> str:
        """Let an execution go. Its `finally` blocks run now, under the guard too: what is wrong with them."""
        if live.execution.ended:
            return ""
        definition, verdict = live.execution.definition, ""
        try:
            with self._guard.watch(
                instance, live.run, definition.name, source_file(definition), claim
            ) as watched:
                live.execution.close()
            verdict = watched.verdict
        except TurnDeadlineError as error:
            self._guard.rest()
            verdict = str(error)
        except Exception as error:  # noqa: BLE001  the author's code, and nothing hangs on it
            said = self._seal.masked(str(error))
            logger.warning("%s (%s) could not be closed: %s", instance, definition.name, said)
        if verdict:
            logger.error("%s: %s", instance, verdict)
        return verdict

    def _apply(self, job: Job) -> tuple[Live, Turn]:
        """Run the author's code over the new events, as many as one commit should carry."""
        live = job.live
        if live is None:
            started = (job.history or job.events)[0]
            if not isinstance(started, ExecutionStarted):
                raise RuntimeError(
                    f"the history begins with {type(started).__name__}, not with ExecutionStarted"
                )
            execution = Execution(job.definition, job.need.payloads)
            live = Live(
                job.claimed.execution, job.claimed.last, started, execution, job.need.payloads, job.size
            )
            job.live = live
            if job.history:
                execution.replay(job.history)
        turn = live.execution.advance(job.events[:SLICE])
        done = SLICE
        while done < len(job.events) and len(turn.events) < FULL and not live.execution.ended:
            turn = merge(turn, live.execution.advance(job.events[done : done + SLICE]))
            done += SLICE
        return live, turn

    def _translate(self, turn: Turn, run: Run, refused: Set[int]) -> Draft:
        """`translate`, once more with fresh knowledge when an activity was unknown: it may be new."""
        self._served.missed = False
        draft = translate(turn, run, self._world, refused)
        if self._served.missed:
            self._refresh()
            draft = translate(turn, run, self._world, refused)
        return draft

    def _consume(self, job: Job, turn: Turn, draft: Draft, run: Run) -> None:
        """How much of the controls and the inbox this commit takes; windows wanted in that stretch go out."""
        commit, controls = draft.commit, len(job.claimed.controls)
        commit.controls = min(turn.consumed, controls)
        applied = turn.consumed - commit.controls
        commit.inbox = job.at[applied] if applied < len(job.at) else len(job.claimed.inbox)
        if draft.ends:
            return
        for position in sorted(job.wanting):
            if position >= commit.inbox:
                break
            window = job.need.windows.get(job.wanting[position])
            if window is None or window.seq in turn.dropped:
                continue
            # What does not fit follows in the next turn: the script asks again for a window that is not full.
            # The item is taken all the same, for behind it may lie events that this turn has applied.
            room = max(0, FULL - len(commit.messages))
            window = dataclasses.replace(window, parts=window.parts[:room])
            commit.messages += emit_window(run, self._world, window, job.need.payloads.cancelled)
            commit.emits.append(window.emit)

    def _done(self, claimed: Claimed, draft: Draft, live: Live | None) -> Done | Wait:
        try:
            return Done(claimed, draft, turns.commit(self._keys, draft.commit), live)
        except LimitError as error:
            too_much = PayloadTooLargeError(
                f"one step of the orchestration asks for too much at once ({error}). "
                "Schedule wide fan-outs with ctx.map or an awaited when_all, or in several steps."
            )
        outside = [event for event in draft.recorded if isinstance(event, OUTSIDE)]
        short = failed(draft.run, outside, failure_from(too_much), self._seal)
        short.commit.controls, short.commit.inbox = draft.commit.controls, draft.commit.inbox
        return Done(claimed, short, turns.commit(self._keys, short.commit), None)

    def _run(self, claimed: Claimed, started: ExecutionStarted, pinned: str) -> Run:
        return Run(
            instance=claimed.instance,
            execution=claimed.execution,
            claim=claimed.claim,
            base=claimed.history_length,
            started=started,
            parent_seq=claimed.parent_seq,
            version=pinned,
            now=self._clock.now(),
        )

    def _count(self, claimed: Claimed) -> int:
        """How often this instance has been handed back before; one more from now on."""
        tries = self._tries.pop(claimed.instance, 0)
        self._tries[claimed.instance] = tries + 1
        _bound(self._tries)
        return tries

    def _full(self, claimed: Claimed, reason: str) -> Wait:
        """Suspended until somebody makes room."""
        logger.error("%s is suspended: %s", claimed.instance, reason)
        return Wait(claimed, 0, reason, suspend=True)

    def _wait(self, claimed: Claimed, reason: str, longest: int = LONGEST_WAIT) -> Wait:
        """Try again later, each time twice as late: somebody has to deploy something first."""
        delay = _jittered(min(longest, 1000 << min(self._count(claimed), 10)))
        logger.warning(
            "%s (%s) waits, next try in %g s: %s",
            claimed.instance,
            claimed.name,
            delay / 1000,
            hidden(reason),
        )
        return Wait(claimed, delay, reason)


def _jittered(delay: int) -> int:
    """So that several processes do not go on meeting in the same order."""
    return int(delay * random.uniform(0.75, 1.25))


def _bound(remembered: OrderedDict[str, object] | OrderedDict[str, int] | OrderedDict[str, float]) -> None:
    while len(remembered) > REMEMBERED:
        remembered.popitem(last=False)
