"""Lets the tests here import the harness as `tests.chaos`, as `python -m tests.chaos` does; and one short
run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

SHORT = ["--minutes", "0.4", "--every", "1-3", "--lease", "3", "--beat", "0.5", "--seed", "7"]


@pytest.fixture(scope="session")
def short_run() -> Iterator[tuple[Path, str]]:
    """The folder of a run of 25 s with a fault every 1-3 s, and what it printed; it must have been clean."""
    with tempfile.TemporaryDirectory(prefix="chaos") as base:
        folder = Path(base) / "run"
        command = [sys.executable, "-m", "tests.chaos", *SHORT, "--folder", str(folder)]
        process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            said, _ = process.communicate(timeout=290)
        finally:
            process.terminate()  # it stops its fleet
            process.wait(60)
        assert process.returncode == 0, said
        yield folder, said
