"""A short chaos run, as `make chaos` does a long one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos.faults import WEIGHTS, plan
from tests.chaos.model import case


@pytest.mark.timeout(400)
def test_nothing_is_lost_stuck_wrong_doubled_or_leaked(short_run: tuple[Path, str]) -> None:
    folder, said = short_run
    result = json.loads((folder / "result.json").read_text())
    assert result["findings"] == {}, said
    assert result["instances"] > 20, said
    assert sum(result["faults"].values()) >= 8, said


def test_a_plan_is_the_same_for_the_same_seed_and_knows_every_kind() -> None:
    first, again, other = (plan(seed, 600, (5, 20), 10, 2) for seed in (1, 1, 2))
    assert first == again != other
    assert {fault.kind for fault in first} == set(WEIGHTS)
    assert all(5 <= b.at - a.at <= 20 for a, b in pairwise(first))
    lengths = {kind: [f.seconds for f in first if f.kind == kind] for kind in ("pause short", "pause long")}
    assert max(lengths["pause short"]) < 10 - 2 * 2 < 10 + 1 <= min(lengths["pause long"])


def test_work_is_the_same_for_the_same_seed_and_of_every_kind() -> None:
    cases = [case(1, n) for n in range(500)]
    assert cases == [case(1, n) for n in range(500)]
    assert len({each.orchestrator for each in cases}) == 12
    assert {action.verb for each in cases for action in each.actions} == {
        "event", "cancel", "suspend", "resume", "terminate", "purge",
    }  # fmt: skip
