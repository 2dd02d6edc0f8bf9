"""Every workload of `benchmarks/` runs, tiny and once, and notices a wrong result. Figures are not judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAIRED = {"W1", "W2", "W2/drain", "W3", "W3b", "W4"}
FIGURES = {
    "W5", "W6 fan-out memory", "W6 map memory", "W6 map history", "W7 start p50", "W7 start p99",
    "W7 event p50", "W7 event p99", "W8 bytes", "W8 CPU", "W9", "W10",
}  # fmt: skip


def smoke(tmp_path: Path, *arguments: str, **variables: str) -> tuple[int, dict[str, Any]]:
    """Exit status and the JSON file of a smoke run."""
    found = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--smoke", "--json", str(found), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), **variables},
        capture_output=True,
        text=True,
    )
    assert found.exists(), done.stderr
    print(done.stdout, done.stderr)  # pytest shows it when what follows fails
    return done.returncode, json.loads(found.read_text())


@pytest.mark.timeout(300)
def test_every_workload_gives_checked_figures(tmp_path: Path) -> None:
    code, found = smoke(tmp_path)
    assert (code, found["errors"]) == (0, {})
    assert {row["key"] for row in found["rows"]} == PAIRED | FIGURES
    for row in found["rows"]:
        assert row["ours"], row
        assert min(row["ours"]) >= 0, row
        if row["key"] in PAIRED:
            assert len(row["raw"]) == len(row["ours"]), row
            assert row["ratio"] > 0, row
    shapes = {(row["key"], row["shape"], row["raw_shape"]) for row in found["rows"] if row["key"] == "W2"}
    assert shapes == {("W2", *pair) for pair in (("prefork",) * 2, ("solo",) * 2, ("solo", "prefork"))}
    assert {"cores", "python", "redis", "celery", "commit", "load_before"} <= found["machine"].keys()


@pytest.mark.timeout(300)
def test_a_wrong_result_of_ours_fails_every_workload_that_runs_activities(tmp_path: Path) -> None:
    code, found = smoke(tmp_path, "--shape", "solo", BENCH_APP="wrong_results", WRONG="workflows")
    assert code == 1
    assert set(found["errors"]) == {"W1", "W2", "W2/drain", "W3", "W3b", "W4", "W5", "W6", "W7", "W8", "W10"}
    assert all("WrongResultError" in error for error in found["errors"].values())
    assert {row["key"] for row in found["rows"]} == {"W9"}  # in the process of the benchmark itself


@pytest.mark.timeout(300)
def test_a_wrong_result_of_raw_celery_fails_too(tmp_path: Path) -> None:
    code, found = smoke(
        tmp_path, "--shape", "solo", "--only", "W1,W3,W4", BENCH_RAW_APP="wrong_results", WRONG="raw_app"
    )
    assert code == 1
    assert set(found["errors"]) == {"W1", "W3", "W4"}
    assert all("WrongResultError" in error for error in found["errors"].values())
    assert found["rows"] == []
