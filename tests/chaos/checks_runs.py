"""An activity ran more often than it had to only where a process died, was paused beyond its lease, or Redis
went.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from .checks_work import Finding
from .evidence import Evidence


class Duplicates:
    """The runs of one evidence that were more than needed."""

    def __init__(self, evidence: Evidence) -> None:
        self._facts = evidence.facts
        self._deadly = [fault for fault in evidence.faults if self._is_deadly(fault)]
        self.causes: Counter[str] = Counter()  # kind of fault: duplicates that it explains
        self.findings: list[Finding] = []
        for (execution, seq), runs in evidence.runs.items():
            for n in range(1, len(runs)):
                if _was_needed(runs[n - 1], runs[n]):
                    continue
                fault = self._explanation(runs[: n + 1])
                if fault is None:
                    self.findings.append(_unexplained(execution, seq, runs[: n + 1]))
                else:
                    self.causes[fault["kind"]] += 1

    def _is_deadly(self, fault: dict[str, Any]) -> bool:
        kind = fault["kind"]
        if kind.endswith("pause") or kind.startswith("pause"):
            # The last beat was up to a beat ago, and the beat that was due may come a little late.
            return fault["seconds"] >= self._facts.lease - 2 * self._facts.beat
        return kind.startswith(("kill", "redis"))

    def _explanation(self, runs: list[dict[str, Any]]) -> dict[str, Any] | None:
        """A fault that hit the process of one of these runs while the step was open.

        Or shortly before: what a paused worker had taken it begins when it goes on.
        """
        begin, end = runs[0]["at"] - self._facts.lease, runs[-1]["at"]
        pids = {run[which] for run in runs for which in ("pid", "parent")}
        for fault in self._deadly:
            hit = fault["kind"].startswith("redis") or pids & set(fault["pids"])
            if hit and fault["from"] <= end and fault["until"] >= begin:
                return fault
        return None


def _was_needed(before: dict[str, Any], run: dict[str, Any]) -> bool:
    """A retry after a failure that was planned."""
    return before["ended"] == "failed" and run["attempt"] == before["attempt"] + 1


def _unexplained(execution: str, seq: int, runs: list[dict[str, Any]]) -> Finding:
    shown = "; ".join(
        f"attempt {run['attempt']} at {run['at']:.3f} in {run['pid']} (of {run['parent']}) "
        f"{run['ended'] or 'never ended'}"
        for run in runs
    )
    return Finding(
        "duplicate", runs[0]["instance"], f"step {execution}:{seq} ran again without cause: {shown}"
    )


def check_runs(evidence: Evidence) -> Iterator[Finding]:
    """Duplicates that no fault explains."""
    yield from Duplicates(evidence).findings
