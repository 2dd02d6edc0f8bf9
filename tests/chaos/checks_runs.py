"""An activity ran more often than it had to only where a process died, or its worker's lease lapsed because
it was paused, its beat helper died, or Redis went.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from .checks_work import Finding
from .evidence import Evidence

DEATHS = ("kill", "kill group", "kill child")


class Duplicates:
    """The runs of one evidence that were more than needed."""

    def __init__(self, evidence: Evidence) -> None:
        self._lease = evidence.facts.lease
        self._faults, self._lapses = evidence.faults, evidence.lapses
        self.causes: Counter[str] = Counter()  # kind of fault: duplicates that it explains
        self.findings: list[Finding] = []
        for (execution, seq), runs in evidence.runs.items():
            blamed: set[int] = set()
            for n in range(1, len(runs)):
                if _was_needed(runs[n - 1], runs[n]):
                    continue
                found = self._explanation(runs, n, blamed)
                if found is None:
                    self.findings.append(_unexplained(execution, seq, runs[: n + 1]))
                else:
                    blamed.add(found[0])
                    self.causes[found[1]["kind"]] += 1

    def _explanation(
        self, runs: list[dict[str, Any]], n: int, blamed: set[int]
    ) -> tuple[int, dict[str, Any]] | None:
        """Which run was lost, or taken for lost, before the n-th began, and by which fault.

        A run is lost once, so it explains one more. It may be the n-th itself: what a paused worker, or the
        child of a dead one, had taken it begins late.
        """
        for which in range(n + 1):
            if which not in blamed:
                for fault in self._faults:
                    if self._is_hit(runs[which], fault, runs[n]["at"]):
                        return which, fault
        return None

    def _is_hit(self, run: dict[str, Any], fault: dict[str, Any], before: float) -> bool:
        """Whether the fault took the run's process, or the lease of its worker, before that time.

        The outcome is written after the run has ended, later if Redis is away.
        """
        begin, end = run["at"] - self._lease, (run["until"] or before) + self._lease
        pids, kind = {run["pid"], run["parent"]}, fault["kind"]
        if fault["until"] < begin or fault["from"] > min(end, before):
            return False
        if not kind.startswith("redis") and not pids & set(fault["pids"]):
            return False
        if kind in DEATHS:
            return True
        return kind.startswith(("redis", "pause", "kill beat")) and any(
            lapse["pid"] in pids
            and max(begin, fault["from"]) <= lapse["at"] <= min(fault["until"] + self._lease, before)
            for lapse in self._lapses
        )


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
