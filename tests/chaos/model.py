"""The work that a chaos run starts, and what must come of it: pure functions of the seed and a number.

`case(seed, n)` is the n-th piece of work. The client starts it and goes through its actions, the checker
compares what it finds with `expected`. Nothing here knows Redis.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from .workflows import MODULUS

LONG_MS: Final = 1500  # an activity that is likely to be hit


# Not messages, whose instances have ids that nobody knows.
PURGED: Final = ("chaos_sequence", "chaos_map", "chaos_retry", "chaos_parent", "chaos_event", "chaos_cancel")


@dataclass(frozen=True)
class Action:
    """What the client does to an instance after its start, `after` seconds later than the action before."""

    verb: str  # event, cancel, suspend, resume, terminate, purge (that one when it has ended)
    after: float
    data: int = 0


@dataclass(frozen=True)
class Case:
    """One piece of work."""

    number: int
    id: str  # of the instance; for a message the name that its instance will not have
    orchestrator: str
    input: dict[str, Any]
    status: str = "Completed"
    output: Any = None
    actions: tuple[Action, ...] = ()
    early: str = ""  # another status it may end with, if that came first
    undone: tuple[int, ...] = ()  # items that must have been released
    is_message: bool = False

    @property
    def cuts_children_off(self) -> bool:
        """Whether it is purged when it has just ended by force, so that its children may still run."""
        return self.purged and self.status in ("Cancelled", "Terminated")

    @property
    def purged(self) -> bool:
        """Whether the client removes it when it has ended."""
        return bool(self.actions) and self.actions[-1].verb == "purge"


def case(seed: int, number: int) -> Case:
    """The n-th piece of work of this seed."""
    rng = random.Random(f"{seed}:{number}")
    kind = rng.choices([make for make, _ in _KINDS], [weight for _, weight in _KINDS])[0]
    made = kind(number, f"w{number}", rng)
    if rng.random() < 0.2 and made.orchestrator in PURGED:
        return replace(made, actions=(*made.actions, Action("purge", 0)))
    return made


def stepped(value: int) -> int:
    """What the activity `step` gives."""
    return (value * 3 + 1) % MODULUS


def flaked(value: int) -> int:
    """What the activity `flaky` gives in the end."""
    return (value * 5 + 2) % MODULUS


def chained(given: dict[str, Any]) -> int:
    """What `chaos_sequence` gives."""
    value = given["value"]
    for _ in given["ms"]:
        value = stepped(value)
    return value


def _chain(rng: random.Random, most: int) -> dict[str, Any]:
    """Mostly quick steps; now and then one that is running when something happens to its worker."""
    ms = [LONG_MS if rng.random() < 0.05 else rng.randrange(60) for _ in range(rng.randint(1, most))]
    return {"value": rng.randrange(1000), "ms": ms}


def _sequence(number: int, id: str, rng: random.Random) -> Case:
    given = _chain(rng, 6)
    return Case(number, id, "chaos_sequence", given, output=chained(given))


def _patient(number: int, id: str, rng: random.Random) -> Case:
    """One activity that outlasts a lease; in the first minute, and so in a short run, only a short one."""
    given = {"value": rng.randrange(1000), "ms": [12_500 if number > 400 else 4_000]}
    return Case(number, id, "chaos_sequence", given, output=chained(given))


def _fan_out(number: int, id: str, rng: random.Random) -> Case:
    values = [rng.randrange(1000) for _ in range(rng.randint(2, 20))]
    return Case(number, id, "chaos_fan_out", {"values": values}, output=sum(v * v for v in values) % MODULUS)


def _map(number: int, id: str, rng: random.Random) -> Case:
    values = [rng.randrange(1000) for _ in range(rng.randint(3, 25))]
    given = {"values": values, "window": rng.randint(1, 6)}
    return Case(number, id, "chaos_map", given, output=[v * v for v in values])


def _retry(number: int, id: str, rng: random.Random) -> Case:
    given = {
        "value": rng.randrange(1000),
        "ms": rng.randrange(40),
        "failures": rng.randint(1, 3),
        "width": rng.randint(2, 4),
    }
    wanted = [flaked(given["value"]), *(flaked(n) for n in range(given["width"]))]
    return Case(number, id, "chaos_retry", given, output=wanted)


def _failure(number: int, id: str, rng: random.Random) -> Case:
    return Case(
        number, id, "chaos_failure", {"value": rng.randrange(1000), "ms": rng.randrange(40)}, status="Failed"
    )


def _timer(number: int, id: str, rng: random.Random) -> Case:
    ms = [rng.randrange(1, 1500) for _ in range(rng.randint(1, 4))]
    return Case(number, id, "chaos_timer", {"ms": ms}, output=[0, -1, stepped(len(ms))])


def _event(number: int, id: str, rng: random.Random) -> Case:
    events = [rng.randrange(1000) for _ in range(rng.randint(1, 5))]
    actions = [Action("event", rng.uniform(0, 0.5), data) for data in events]
    if rng.random() < 0.4:
        place = rng.randrange(len(actions))
        actions[place:place] = [Action("suspend", rng.uniform(0, 0.3))]
        actions.append(Action("resume", rng.uniform(0, 0.3)))
    given = {"events": len(events)}
    wanted = [*events, stepped(sum(events))]
    return Case(number, id, "chaos_event", given, output=wanted, actions=tuple(actions))


def _parent(number: int, id: str, rng: random.Random) -> Case:
    children = [_chain(rng, 3) for _ in range(rng.randint(1, 3))]
    wanted = [*(chained(child) for child in children), -1]
    return Case(number, id, "chaos_parent", {"children": children}, output=wanted)


def _rounds(number: int, id: str, rng: random.Random) -> Case:
    events = [rng.randrange(1000) for _ in range(rng.randint(2, 5))]
    total = 0
    for data in events:
        total = (total * 2 + stepped(data)) % MODULUS
    actions = tuple(Action("event", rng.uniform(0, 0.3), data) for data in events)
    given = {"left": len(events), "total": 0}
    return Case(number, id, "chaos_rounds", given, output={"total": total}, actions=actions)


def _cancel(number: int, id: str, rng: random.Random) -> Case:
    items = [rng.randint(1, 1000) for _ in range(rng.randint(1, 4))]
    actions = (Action("cancel", rng.uniform(0, 1.5)),)
    return Case(
        number, id, "chaos_cancel", {"items": items}, "Cancelled", actions=actions, undone=tuple(items)
    )


def _terminate(number: int, id: str, rng: random.Random) -> Case:
    """Ended from outside, whatever is open; some are done before."""
    like = rng.choice([_map, _retry, _parent])(number, id, rng)
    actions = (Action("terminate", rng.uniform(0, 1.0)),)
    return replace(like, status="Terminated", early="Completed", actions=actions)


def _large(number: int, id: str, rng: random.Random) -> Case:
    text = "".join(rng.choices("abcdefghij é🌱", k=20)) * 2500
    times = rng.randint(1, 3)
    return Case(number, id, "chaos_large", {"text": text, "times": times}, output=text * times)


def _message(number: int, id: str, rng: random.Random) -> Case:
    return Case(
        number, id, "chaos_message", {"number": number}, output=[number, stepped(number)], is_message=True
    )


_KINDS: Final[list[tuple[Callable[[int, str, random.Random], Case], int]]] = [
    (_sequence, 18),
    (_fan_out, 10),
    (_map, 10),
    (_retry, 10),
    (_failure, 4),
    (_timer, 10),
    (_event, 12),
    (_parent, 8),
    (_rounds, 8),
    (_cancel, 8),
    (_large, 3),
    (_terminate, 6),
    (_patient, 1),
    (_message, 12),
]
