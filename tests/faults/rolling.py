"""Redis goes back to just before a certain write, while every process lives on.

A run whose gate photographs the database before its k-th command, lets some more commands be acknowledged,
and then puts the photograph back: what a lost tail of the append-only file does, or a fail-over to a
replica that is behind. All connections find another server. The client does again what it had done since.

Nothing of the lost past may be left (every history replays, every end is that of the run without a fault),
and nothing of what was written before may be missing (histories begin with what the photograph has of them).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from gated import Killed
from judging import check_effects
from processes import Process
from redis.exceptions import ConnectionError as RedisConnectionError
from stage import Crew, Desk, Do, Injector, Scenario, Stage, Until
from sweeping import Sweeper

from celeriac.celery_app.store import Keys

Photograph = dict[bytes, tuple[bytes, int]]  # as RESTORE takes it: the value, and how long it lives
OFTEN = 2  # an activity runs once more for each time that its outcome was lost, and was lost once
History = tuple[str, list[bytes]]  # of an instance: its execution, and the events
Plain = tuple[Stage, list[Any], Counter[Any]]  # a run without a fault, how it ended, what was done


def histories(raw: Any, keys: Keys) -> dict[str, History]:
    """What is written of every instance."""
    found: dict[str, History] = {}
    for member in raw.zrange(keys.path("idx_id"), 0, -1):
        instance = member.decode()
        execution = (raw.hget(keys.inst(instance), "execution") or b"").decode()
        found[instance] = (execution, raw.lrange(keys.hist(instance), 0, -1))
    return found


class Roller(Injector):
    """The gate of such a run. `silent`: idle connections are replaced unasked, as redis-py does."""

    def __init__(self, stage: RollingStage, at: int, later: int, *, silent: bool) -> None:
        super().__init__(stage.virtual, None)
        self._stage, self._at, self._later, self._silent = stage, at, later, silent
        self._kept: Photograph = {}
        self._to_do: list[Do | Until] = []
        self._cut: set[str] = set()
        self.held: dict[str, History] = {}  # what was written before the photograph
        self.back = False

    def send(self, who: Process, what: str, apply: Callable[[], Any]) -> Any:
        if who.dead:
            raise Killed
        if self.count + 1 == self._at:
            self._photograph(who.name, what)
        if self.count >= self._at + self._later - 1 and not self.back and not isinstance(who, Desk):
            self._go_back()  # never within a call of the client, who is to do all of it again
        self.count += 1
        self.log.append((who.name, what))
        if who.name in self._cut:
            self._cut.discard(who.name)
            raise RedisConnectionError("Redis was killed")
        return apply()

    def _photograph(self, who: str, what: str) -> None:
        raw: Any = self._stage.crew.raw
        self.struck = (who, what)
        self._kept = {key: (raw.dump(key), raw.pttl(key)) for key in raw.keys("*")}
        self._to_do = self._stage.to_do
        self.held = histories(raw, self._stage.keys)

    def _go_back(self) -> None:
        raw: Any = self._stage.crew.raw
        raw.flushdb()
        for key, (value, life) in self._kept.items():
            raw.restore(key, max(0, life), value)
        self.back = True
        self._stage.to_do = self._to_do
        for process in self._stage.processes.values():
            process.severed = True
            process.store.origin.changes += 1
            if not self._silent:
                self._cut.add(process.name)


class RollingStage(Stage):
    """A scenario on its way, with one rollback: to before command `at`, when `later` more had been sent."""

    def __init__(self, crew: Crew, scenario: Scenario, at: int, later: int, *, silent: bool) -> None:
        super().__init__(crew, scenario, None)
        self.gate: Roller = Roller(self, at, later, silent=silent)

    @property
    def to_do(self) -> list[Do | Until]:
        """What the client has yet to do, with what it is at."""
        return list(self._queued)

    @to_do.setter
    def to_do(self, steps: list[Do | Until]) -> None:
        self._queued = list(steps)


def roll(sweeper: Sweeper, plain: Plain, at: int, later: int, *, silent: bool) -> list[str]:
    """One run with a rollback to before its `at`-th command; what is wrong with its end. `plain`: the same
    without.
    """
    scenario, crew = plain[0].scenario, sweeper.crew
    stage = RollingStage(crew, scenario, at, later, silent=silent)
    gate = stage.gate
    try:
        stage.play()
        problems = _judged(sweeper, plain, stage) if gate.back else ["there was no rollback"]
    except AssertionError as error:
        problems = [str(error)]
    how = "in silence" if silent else "with a loss of all connections"
    where = f"{scenario.name}: back to before command {at} {gate.struck}, {later} more were sent, {how}"
    return [f"{where}: {problem}" for problem in problems]


def _judged(sweeper: Sweeper, plain: Plain, stage: RollingStage) -> list[str]:
    _, expected, effects = plain
    found, done = sweeper.ends(stage), Counter(sweeper.crew.effects)
    problems = [] if found == expected else [f"ended as {found} instead of {expected}"]
    problems += check_effects(effects, done, may_repeat=True)
    problems += [f"{key} was done {n} times" for key, n in done.items() if n > OFTEN * effects[key]]
    for instance, (execution, events) in histories(sweeper.crew.raw, stage.keys).items():
        before = stage.gate.held.get(instance)
        if before is not None and before[0] == execution and events[: len(before[1])] != before[1]:
            problems.append(f"{instance}: what was written before is not the beginning of its history")
    return problems + sweeper.after(stage)
