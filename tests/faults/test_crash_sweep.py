"""A fault before and after every Redis command of every process: the scenario always ends right.

Short here: every command of the sequence, a sample of the rest. All of it: `make crash-sweep`.
"""

from __future__ import annotations

import os
import random

import pytest
from scenarios import SCENARIOS
from stage import Scenario
from sweeping import HEAD, Sweeper, every

FULL = os.environ.get("CRASH_SWEEP") == "full"
WHOLE = ("sequence",)  # swept whole in the short form too
SAMPLE = 24


@pytest.fixture(scope="module", autouse=True)
def table() -> None:
    """What `make crash-sweep` prints."""
    print(f"\n{HEAD}")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name.replace(" ", "_"))
def test_a_fault_at_every_command(sweeper: Sweeper, scenario: Scenario) -> None:
    faults = None
    if not FULL and scenario.name not in WHOLE:
        stage, _, _ = sweeper.plain(scenario)
        faults = random.Random(scenario.name).sample(list(every(stage.calls)), SAMPLE)
    swept = sweeper.sweep(scenario, faults)
    print(swept.row())
    assert not swept.wrong, "\n".join(swept.wrong[:20])
