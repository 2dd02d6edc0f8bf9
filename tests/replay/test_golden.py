"""Recorded histories of earlier releases replay for ever. They are never edited; see record.py."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from corpus_ends import PROGRAMS
from record import GOLDEN, Golden
from world import Outcomes

from celeriac.orchestrations.history import OUTSIDE
from celeriac.orchestrations.replay import replay

FILES = sorted(GOLDEN.glob("*.json"))
BY_NAME = {program.name: program for program in PROGRAMS}


def test_there_is_a_golden_history_for_every_shape() -> None:
    assert {path.stem for path in FILES} == set(BY_NAME)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_replays_from_every_step(path: Path) -> None:
    definition = BY_NAME[path.stem].definition
    for golden in msgspec.json.decode(path.read_bytes(), type=list[Golden]):
        payloads = Outcomes()
        payloads.groups = golden.groups
        history = golden.history
        assert history
        assert replay(definition, history, [], payloads).events == []
        # From the middle on, the code asks for what was recorded (failures carry traces, with line numbers).
        steps = [i for i, event in enumerate(history) if isinstance(event, OUTSIDE)]
        middle = steps[len(steps) // 2]
        outside = [event for event in history[middle:] if isinstance(event, OUTSIDE)]
        turn = replay(definition, history[:middle], outside, payloads)
        assert len(turn.events) == len(history) - middle
        assert turn.events[:-1] == history[middle:-1]
