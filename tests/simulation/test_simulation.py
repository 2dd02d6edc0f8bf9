"""Random programs under random faults, in orders that a seed decides: always the end of the sequential model.

`make simulate SEEDS=5000` runs more of them, `make simulate SEED=123` the one that failed; both together
5,000 from that one on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from simulating import Simulations

SEED = os.environ.get("SEED")
SEEDS = int(os.environ.get("SEEDS") or 0)
STOP = bool(os.environ.get("STOP"))  # at the first seed that is wrong
SHORT = 60.0  # seconds that the short form takes
LEAST = 20  # seeds, however slow the machine

ELSEWHERE = """
import logging, sys
sys.path[:0] = sys.argv[1:3]
from simulating import Simulations
logging.disable(logging.CRITICAL)
print(*(Simulations(sys.argv[3], lambda store: []).run(seed).digest for seed in range(3)))
"""


def test_random_programs_end_as_the_model_says(simulations: Simulations) -> None:
    first = int(SEED or 0)
    last = first + (SEEDS or (1 if SEED else 1_000_000))
    began, ran, commands, strikes, wrong = time.monotonic(), 0, 0, 0, []
    for seed in range(first, last):
        verdict = simulations.run(seed)
        ran, commands, strikes = ran + 1, commands + verdict.commands, strikes + len(verdict.struck)
        if verdict.wrong:
            wrong.append(str(verdict))
            print(verdict, flush=True)
            if STOP:
                break
        if ran % 50 == 0:
            print(f"{ran} seeds, {commands} commands, {strikes} faults, {len(wrong)} wrong", flush=True)
        if last == first + 1:
            print("\n".join(verdict.trace))
        if not (SEED or SEEDS) and ran >= LEAST and time.monotonic() - began > SHORT:
            break
    print(f"\n{ran} seeds, {commands} commands, {strikes} faults, {time.monotonic() - began:.0f} s")
    assert not wrong, "\n".join(wrong)


def test_a_seed_gives_the_same_trace_again(simulations: Simulations) -> None:
    first = [simulations.run(seed).digest for seed in range(5)]
    assert [simulations.run(seed).digest for seed in range(5)] == first
    assert len(set(first)) == 5


def test_a_seed_gives_the_same_trace_in_another_process(redis_server: Any, simulations: Simulations) -> None:
    here = Path(__file__).parent
    command = [
        sys.executable,
        "-c",
        ELSEWHERE,
        str(here),
        str(here.parent / "faults"),
        f"{redis_server.url}?db=13",
    ]
    outputs = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
                       check=True, timeout=100).stdout.split()
        for seed in ("1", "2")
    ]  # fmt: skip
    assert outputs[0] == outputs[1] == [simulations.run(seed).digest for seed in range(3)]
