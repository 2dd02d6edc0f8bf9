"""Records golden histories: `python tests/replay/record.py` adds what is missing and changes none.

A golden history stands for an instance that began under an older release: it must replay for ever.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from corpus_ends import PROGRAMS
from world import World

from celeriac.orchestrations.history import AnyEvent, PartOutcome

GOLDEN = Path(__file__).parent / "golden"
SEEDS = (3, 4)


class Golden(msgspec.Struct):
    """One recorded run."""

    program: str
    history: list[AnyEvent]
    groups: dict[int, list[PartOutcome]] = {}


def record() -> list[Path]:
    """Write what is missing; the new files."""
    written: list[Path] = []
    for program in PROGRAMS:
        path = GOLDEN / f"{program.name}.json"
        if path.exists():
            continue
        runs: list[Any] = []
        for seed in SEEDS:
            runs += [
                Golden(program.name, recording.history, recording.payloads.groups)
                for recording in World(program, seed).run()
            ]
        text = msgspec.json.format(msgspec.json.encode(runs), indent=1).decode() + "\n"
        path.write_text(
            re.sub(r"/[^\"]*/(celeriac|tests)/", r"\1/", text), encoding="utf-8"
        )  # no machine's paths
        written.append(path)
    return written


if __name__ == "__main__":
    for path in record():
        print(path.name)
