"""What every workload needs: the check of its results, percentiles, and what Linux says of a process."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TIMEOUT = 900  # seconds after which a result counts as lost


class WrongResultError(AssertionError):
    """A workload did not give what it must; no figure of it counts."""


def check(results: Sequence[Any], expected: Sequence[Any]) -> None:
    """Every result is the one expected; raises WrongResultError."""
    if len(results) != len(expected):
        raise WrongResultError(f"{len(results)} results; want {len(expected)}")
    wrong = [pair for pair in zip(results, expected, strict=True) if pair[0] != pair[1]]
    if wrong:
        got, want = wrong[0]
        raise WrongResultError(
            f"{len(wrong)} of {len(results)} results are wrong, e.g. {got!r}: want {want!r}"
        )


def until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Look again and again until the condition holds; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int, line: str = "VmHWM") -> int:
    """Bytes: the most that a process ever had resident (VmHWM), or what it has now (VmRSS)."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith(f"{line}:"):
            return int(text.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status says nothing of {line}")
