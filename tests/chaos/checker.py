"""Judges a chaos run by the files it left: `python -m tests.chaos.checker FOLDER`. Needs no Redis."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from .checks_history import check_histories
from .checks_keys import check_keys
from .checks_runs import check_runs
from .checks_work import Finding, check_work
from .evidence import Evidence

MOST_SHOWN = 20  # of one kind

CHECKS = (check_work, check_histories, check_runs, check_keys)


def check(evidence: Evidence) -> list[Finding]:
    """Everything that must not be."""
    found = [finding for each in CHECKS for finding in each(evidence)]
    found += [Finding("died", "fleet", text) for text in evidence.facts.surprises]
    if not evidence.facts.settled:
        waiting = ", ".join(evidence.facts.waiting)
        found.append(Finding("stuck", "fleet", f"not everything ended in time: {waiting}"))
    return found


def show(findings: list[Finding]) -> str:
    """As text, some of each kind."""
    counts = Counter(finding.kind for finding in findings)
    shown: Counter[str] = Counter()
    lines: list[str] = []
    for finding in findings:
        shown[finding.kind] += 1
        if shown[finding.kind] <= MOST_SHOWN:
            lines.append(f"{finding.kind}: {finding.where}: {finding.text}")
    lines += [f"... and {n - MOST_SHOWN} more: {kind}" for kind, n in counts.items() if n > MOST_SHOWN]
    return "\n".join(lines)


def main() -> int:
    """Judge the folder that is named."""
    findings = check(Evidence.read(Path(sys.argv[1])))
    print(show(findings) or "nothing is wrong")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
