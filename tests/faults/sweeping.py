"""The sweep: each scenario once without a fault, then once for every command and kind of fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from judging import Residue, check_all, check_effects, ends, leftovers, purge_all
from scenarios import REGISTRY
from stage import Crew, Fault, Kind, Scenario, Stage

HEAD = f"{'scenario':26} {'calls':>6} {'faults':>7}"


@dataclass
class Swept:
    """What came of one scenario."""

    scenario: str
    calls: int
    faults: int = 0
    wrong: list[str] = field(default_factory=list)

    def row(self) -> str:
        """A line of the table."""
        verdict = "all right" if not self.wrong else f"{len(self.wrong)} WRONG"
        return f"{self.scenario:26} {self.calls:6} {self.faults:7}   {verdict}"


class Sweeper:
    """Runs scenarios with faults and judges them."""

    def __init__(self, crew: Crew, residue: Residue) -> None:
        self.crew, self._residue = crew, residue

    def plain(self, scenario: Scenario) -> tuple[Stage, list[Any], Counter[Any]]:
        """The run without a fault: what is expected of all others."""
        stage = Stage(self.crew, scenario, None)
        stage.play()
        assert not stage.deaths
        expected = self.ends(stage)
        effects = Counter(self.crew.effects)
        problems = self.after(stage)
        assert not problems, f"{scenario.name} is wrong without any fault: {problems}"
        return stage, expected, effects

    def sweep(self, scenario: Scenario, faults: Iterable[Fault] | None = None) -> Swept:
        """All faults of a scenario, or the given ones."""
        stage, expected, effects = self.plain(scenario)
        swept = Swept(scenario.name, stage.calls)
        for fault in every(swept.calls) if faults is None else faults:
            swept.faults += 1
            problems = self.one(scenario, fault, expected, effects)
            swept.wrong += [f"{scenario.name}, {fault.kind.value} command {fault.at}: {p}" for p in problems]
        return swept

    def one(self, scenario: Scenario, fault: Fault, expected: list[Any], effects: Counter[Any]) -> list[str]:
        """One run with a fault; what is wrong with its end."""
        stage = Stage(self.crew, scenario, fault)
        try:
            stage.play()
        except AssertionError as error:
            return [str(error)]
        problems: list[str] = []
        found = self.ends(stage)
        if found != expected:
            problems.append(f"ended as {found} instead of {expected}")
        repeats = any(name.startswith("worker") for name in stage.deaths)
        problems += check_effects(effects, Counter(self.crew.effects), may_repeat=repeats)
        problems += self.after(stage)
        where = f" (at {stage.gate.struck}, died: {stage.deaths})"
        return [problem + where for problem in problems]

    def ends(self, stage: Stage) -> list[Any]:
        """How what is to be compared has ended."""
        found = ends(stage.look)
        if not stage.scenario.instances:
            return sorted(found.values())
        return [(i, found.get(i)) for i in stage.scenario.instances]

    def after(self, stage: Stage) -> list[str]:
        """What is wrong with what a run left behind; removes it."""
        problems = check_all(stage.look, REGISTRY)
        problems += self._residue(stage.store)
        purge_all(stage.look)
        return problems + leftovers(stage.store)


def every(calls: int) -> Iterator[Fault]:
    """All faults of a run with so many commands."""
    for at in range(1, calls + 1):
        for kind in Kind:
            yield Fault(at, kind)
