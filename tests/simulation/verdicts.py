"""Was the end of a seed right? Held against the sequential model, and against what faults excuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import programs
from judging import check_all, ends, leftovers, purge_all

if TYPE_CHECKING:
    from simulating import Simulation

ENDED = ("Completed", "Failed", "Cancelled", "Terminated")
ID = "main"
MOST = 4  # messages that a worker takes at once
VARYING = ("slow", "late", "stubborn")  # may lose a race and never run; may be given up before it ran
# Commands between two activities: a worker that is struck there has none that others would do again.
QUIET = ("take", "promote", "ack", "give_back", "beat", "adopt", "sweep_flights")


def judge(sim: Simulation, effects: Counter[Any]) -> list[str]:
    """What is wrong with the end of the run. Purges every instance, if all have ended."""
    model = programs.expected(sim.spec, ID, numbered=not sim.rolls_back)
    found = ends(sim.look)
    wrong: list[str] = []
    wanted = {i: _short(r) for i, r in {ID: model, **model.instances}.items()}
    stopped = sim.spec["ending"] in ("cancel", "terminate")
    for instance, want in wanted.items():
        have = found.get(instance, ("", "missing", "", None))
        if stopped:
            if instance == ID and have[1] != want[0]:
                wrong.append(f"{instance} is {have[1]} instead of {want[0]}")
        elif (have[1], have[2], have[3] and have[3][0]) != want:
            wrong.append(f"{instance} is {have} instead of {want}")
    wrong += [] if stopped else _compared(sim, Counter(_model_effects(model)), effects)
    wrong += [f"{i} has not ended: {end}" for i, end in found.items() if end[1] not in ENDED]
    wrong += check_all(sim.look, programs.REGISTRY)
    wrong += sim.home.residue(sim.look._store)
    wrong += _mended(sim)
    if any(end[1] not in ENDED for end in found.values()):
        return wrong
    purge_all(sim.look)
    return wrong + leftovers(sim.look._store)


def _short(result: Any) -> tuple[Any, ...]:
    output = result.output if result.status == "Completed" else None
    return (result.status, repr(output), result.failure.error_type if result.failure else None)


def _model_effects(model: Any) -> Iterator[tuple[str, str, int]]:
    for call in model.calls:
        yield (call.instance_id, call.name, call.attempt)


def _compared(sim: Simulation, expected: Counter[Any], effects: Counter[Any]) -> list[str]:
    """Everything was done; and when no worker died or stood still, nothing twice."""
    done: Counter[Any] = Counter()
    again = 0  # how often the same attempt ran again
    ran: Counter[str] = Counter()
    for (instance, name, _, attempt, run), times in effects.items():
        done[instance, name, int(attempt)] += times
        again, ran[run] = again + (times if ran[run] else times - 1), ran[run] + times
    surely = {key: n for key, n in expected.items() if key[1] not in VARYING}
    wrong = [f"{key} was done {done[key]} times, not {n}" for key, n in surely.items() if done[key] < n]
    if not sim.rolled_back:
        expected = done if sim.before else expected
        more = {k: n - expected[k] for k, n in done.items() if n > expected[k] and k[1] not in VARYING}
        if max(again, sum(more.values())) > (most := _repeats(sim)):
            wrong.append(f"done too often, {most} times may be: {again} attempts again, {more}")
    return wrong


def _repeats(sim: Simulation) -> int:
    """How many activities may run once more: the one that a worker ran when it died or stood still,
    because others did it meanwhile; and all that a hasty one had taken, which does not look at Redis in
    between.
    """
    most = 0
    for strike in sim.scheduler.struck:
        words = strike.split()
        if not words[1].startswith("worker") or words[2] in QUIET or "lost" in words:
            continue
        most += MOST if "pauses" in words and words[1] in sim.hasty else 1
    return most


def _mended(sim: Simulation) -> list[str]:
    """No process may lean on the audit: while Redis forgets nothing there is nothing to mend."""
    found: Any = sim.home.raw.hgetall(sim.keys.path("mended"))
    return [f"the audit had to mend {found}"] if found and not sim.rolled_back else []
