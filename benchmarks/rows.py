"""One row of the report, and what it must reach: every floor and goal stands in the table below."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MB = 2**20


@dataclass(frozen=True)
class Target:
    """What a figure must reach (floor) and should (goal); of the ratio where raw Celery stands beside."""

    floor: float | None
    goal: float | None
    higher: bool  # is more better?

    def verdict(self, figure: float) -> str:
        """'goal', 'floor' (reached) or 'below'."""
        for name, bound in (("goal", self.goal), ("floor", self.floor)):
            if bound is not None and (figure >= bound if self.higher else figure <= bound):
                return name
        return "below"


TARGETS: dict[str, Target] = {
    "W1": Target(1.2, 2.6, higher=True),
    "W2": Target(2.5, 5.5, higher=True),
    "W2/drain": Target(1.0, 1.5, higher=True),
    "W3": Target(3.0, 6.0, higher=True),
    "W3b": Target(3.0, 6.0, higher=True),
    "W4": Target(1.5, 3.0, higher=True),
    "W5": Target(1.2, 1.05, higher=False),
    "W6 fan-out memory": Target(512, None, higher=False),
    "W6 map memory": Target(512, None, higher=False),
    "W6 map history": Target(None, 1.0, higher=False),
    "W7 start p50": Target(15, 5, higher=False),
    "W7 start p99": Target(100, None, higher=False),
    "W8 bytes": Target(3.0, 1.5, higher=False),
    "W8 CPU": Target(5.0, None, higher=False),
    "W9": Target(50_000, 200_000, higher=True),
    "W10": Target(1.0, None, higher=True),  # against one orchestrator with one worker; it must not fall
}


@dataclass(frozen=True)
class Row:
    """The repetitions of one figure: ours and, if there is a counterpart, raw Celery's of the same turn."""

    key: str  # "W2", or "W7 start p50"; names the target too
    title: str
    unit: str
    ours: list[float]
    shape: str = ""  # pool shape of our workers
    raw: list[float] = field(default_factory=list)
    raw_shape: str = ""
    rate: bool = False  # more is better: the ratio is ours / raw, else raw / ours
    counts: bool = True  # is this the row that the target is for?
    against: str = "raw Celery"
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The median of the pairwise ratios; more than 1 is to our advantage."""
        if not self.raw:
            return None
        pairs = zip(self.raw, self.ours, strict=True)
        return statistics.median(o / r if self.rate else r / o for r, o in pairs)

    @property
    def verdict(self) -> str:
        """Of the target; empty where there is none, or where another row stands for it."""
        target = TARGETS.get(self.key)
        if target is None or not self.counts:
            return ""
        return target.verdict(statistics.median(self.ours) if self.ratio is None else self.ratio)

    def to_json(self) -> dict[str, Any]:
        """Everything, for the file."""
        target = TARGETS.get(self.key)
        return {
            "workload": self.key.split()[0].split("/")[0],
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "shape": self.shape,
            "ours": self.ours,
            "ours_median": statistics.median(self.ours),
            "against": self.against if self.raw else None,
            "raw_shape": self.raw_shape,
            "raw": self.raw,
            "raw_median": statistics.median(self.raw) if self.raw else None,
            "ratio": self.ratio,
            "floor": target.floor if target else None,
            "goal": target.goal if target else None,
            "verdict": self.verdict,
            "facts": dict(self.facts),
        }
