"""One kill of each kind, as `make recovery` does twenty: the work goes on about a lease later, or sooner."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_work_goes_on_without_the_process_that_was_killed() -> None:
    command = [sys.executable, "-m", "tests.chaos.recovery", "--kills", "1", "--lease", "3", "--beat", "0.5"]
    process = subprocess.Popen(
        [*command, "--bound", "30"], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        process.terminate()  # it stops its fleet
        process.wait(60)
    assert process.returncode == 0, said
    assert said.count("│ 1 ") == 5, said
