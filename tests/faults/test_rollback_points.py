"""Redis goes back to just before a write of each kind, when that alone or more had been acknowledged.

What is promised (docs/how-to/redis.md): everything goes back together, the work goes on by itself, and it
ends as if what is lost had never been. Short here: the first and the last write of each kind in each
scenario. Every command of every scenario: `make crash-sweep`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest
from rolling import roll
from scenarios import SCENARIOS
from stage import Scenario
from sweeping import Sweeper

FULL = os.environ.get("CRASH_SWEEP") == "full"
# How many commands had been sent when Redis went back, and whether connections were replaced in silence.
HOW = ((1, False), (1, True), (14, True), (2, False), (5, True), (5, False), (14, False), (40, True))
# How the last one ends depends on when a worker comes, and that no rollback takes back.
ROLLED = [scenario for scenario in SCENARIOS if scenario.serve]
# Commands that write nothing: a rollback to before them is one to before the next.
READS = {"INFO", "HGETALL", "TIME", "HMGET", "LRANGE", "SSCAN", "HLEN", "LLEN", "get"}
# Every kind of write that takes work on, is in the table at least once.
KINDS = {
    "start", "raise_event", "control", "terminate", "purge", "claim", "commit", "stage", "complete", "retry",
    "take", "ack", "promote", "fire_timers", "trigger_take", "trigger_start", "beat", "note_served", "audit",
    "sweep", "sweep_flights",
}  # fmt: skip


def points(kinds: Sequence[str]) -> Iterator[int]:
    """Commands, counted from 1, to go back to: the first and the last write of each kind."""
    if FULL:
        yield from range(1, len(kinds) + 1)
        return
    last = len(kinds) - 1
    writes = set(kinds) - READS
    found = {kinds.index(k) for k in writes} | {last - kinds[::-1].index(k) for k in writes}
    yield from (at + 1 for at in sorted(found))


@pytest.mark.parametrize("scenario", ROLLED, ids=lambda s: s.name.replace(" ", "_"))
def test_back_to_before_each_kind_of_write(sweeper: Sweeper, scenario: Scenario) -> None:
    plain = stage, _, _ = sweeper.plain(scenario)
    wrong, rolls = [], 0
    for at in points([what for _, what in stage.gate.log[: stage.played - 1]]):
        for later, silent in HOW if FULL else HOW[:3]:
            if at + later <= stage.played:
                rolls += 1
                wrong += roll(sweeper, plain, at, later, silent=silent)
    print(f"{scenario.name:26} {rolls:6} rollbacks   {f'{len(wrong)} WRONG' if wrong else 'all right'}")
    assert not wrong, f"{len(wrong)} of {rolls}\n" + "\n".join(wrong[:20])


def test_the_scenarios_have_every_kind(sweeper: Sweeper) -> None:
    stages = [sweeper.plain(scenario)[0] for scenario in ROLLED]
    assert {what for stage in stages for _, what in stage.gate.log[: stage.played - 1]} >= KINDS
