"""What Redis does to a simulation by itself: it comes back with an older state, and messages come twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulating import Simulation


def roll_back(sim: Simulation) -> None:
    """Redis comes back with an older state, as after a crash that lost a tail; all connections break."""
    raw: Any = sim.home.raw
    sim.virtual.sleep(sim.rolls_back)
    kept = [(key, raw.dump(key), raw.pttl(key)) for key in sorted(raw.keys("*"))]
    sim.virtual.sleep(sim.dice.uniform(0.001, 2))
    if sim.over:
        return
    raw.flushdb()
    for key, value, life in kept:
        raw.restore(key, max(0, life), value)
    sim.rolled_back += 1
    _tell(sim, f"redis rolled back to {len(kept)} keys")
    sim.scheduler.cut |= {actor.name for actor in sim.scheduler.actors}
    for actor in sim.scheduler.actors:
        actor.process.severed = True


def copy_messages(sim: Simulation) -> None:
    """A message comes once more, as when somebody restores what was taken: behind all that wait, or next."""
    raw: Any = sim.home.raw
    queue = sim.settings.queue_key()
    left = sim.copies
    while left and not sim.over:
        sim.virtual.sleep(sim.dice.uniform(0.01, 0.3))
        message = raw.lindex(queue, -1)
        if message is not None:
            (raw.lpush if sim.dice.random() < 0.5 else raw.rpush)(queue, message)
            left -= 1
            _tell(sim, "a message came twice")


def _tell(sim: Simulation, what: str) -> None:
    sim.scheduler.trace.append(what)
    sim.scheduler.struck.append(what)
