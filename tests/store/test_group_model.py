"""Join, dissolve, retry and terminate of a fan-out: a pure model, and the scripts driven like it.

The model came first; the scripts must agree with it after every operation, in every order of the five parts.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from celeriac.celery_app.store import flights, instances, payloads, steps
from celeriac.celery_app.store.records import GroupEmit, GroupOpen, OpenedStep, open_text
from celeriac.orchestrations.errors import FailureDetails
from celeriac.orchestrations.history import (
    EventRaised,
    GroupCompleted,
    GroupScheduled,
    PartOutcome,
    TaskCompleted,
    TaskFailed,
    decode_event,
)

SIZE, FIRST = 5, 10  # parts, and the seq of the first
ATTEMPT = b'{"number":%d,"at":1,"error_type":"E","message":"no"}'
Item = tuple[Any, ...]


@dataclass
class Model:
    """What a group does, in plain words. A part maps to (current attempt, is parked)."""

    window: int
    cursor: int = 0
    in_flight: int = 0
    asked: bool = False  # an E item is in the inbox
    dissolved: bool = False
    known: bool = True  # its counters still exist
    ended: bool = False
    parts: dict[int, tuple[int, bool]] = field(default_factory=dict)
    joined: dict[int, bool] = field(default_factory=dict)
    inbox: list[Item] = field(default_factory=list)
    delivered: list[Item] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.emit(self.window)

    def emit(self, n: int) -> None:
        stop = min(SIZE, self.cursor + n)
        emitted = range(self.cursor, stop)
        self.cursor, self.asked = stop, False
        if self.dissolved and self.cursor == SIZE:
            self.known = False
        for part in emitted:
            self.parts[part] = (1, False)
        if self.known:
            self.in_flight += len(emitted)

    def want_window(self) -> None:
        if (
            self.known
            and not self.asked
            and self.cursor < SIZE
            and self.in_flight * 2 <= self.window
        ):  # fmt: skip
            self.asked = True
            self.inbox.append(("E",))

    def complete(self, part: int, attempt: int, ok: bool) -> str:
        if self.ended or part not in self.parts:
            return "GONE"
        current, parked = self.parts[part]
        if not ok and attempt != current:
            return "STALE"
        del self.parts[part]
        if self.known and not parked:
            self.in_flight -= 1
        if not self.known or self.dissolved:
            self.inbox.append(("one", part, ok))
        else:
            self.joined[part] = ok
        if self.known and not self.dissolved and len(self.joined) == SIZE:
            self.inbox.append(("all", sum(not ok for ok in self.joined.values())))
            self.known = False
        self.want_window()
        return "OK"

    def retry(self, part: int, attempt: int) -> str:
        if self.ended or part not in self.parts:
            return "GONE"
        current, parked = self.parts[part]
        if current == attempt + 1 and parked:
            return "OK"
        if current != attempt:
            return "STALE"
        self.parts[part] = (attempt + 1, True)
        if self.known and not parked:
            self.in_flight -= 1
            self.want_window()
        return "OK"

    def promote(self) -> None:
        for part, (attempt, parked) in self.parts.items():
            if parked:
                self.parts[part] = (attempt, False)
                self.in_flight += self.known

    def turn(self, dissolve: bool) -> None:
        wanted = ("E",) in self.inbox
        self.delivered += self.inbox
        self.inbox = []
        if dissolve and self.known and not self.dissolved:
            self.dissolved = True
            self.known = self.cursor < SIZE
            self.inbox += [("one", part, self.joined[part]) for part in sorted(self.joined)]
            self.joined = {}
        if wanted:
            self.emit(self.window - self.window // 2)
        if wanted or dissolve:
            self.want_window()

    def terminate(self) -> None:
        self.ended, self.known = True, False
        self.parts, self.inbox = {}, []

    def check(self) -> None:
        """The laws: every part ends once, in one way; nothing is stuck."""
        items = self.delivered + self.inbox
        singles = [item[1] for item in items if item[0] == "one"]
        joins = [item for item in items if item[0] == "all"]
        assert len(singles) == len(set(singles)), "a part reported twice"
        assert not (joins and singles), "a joined group also reported singly"
        assert len(joins) <= 1
        if self.ended:
            return
        accounted = set(singles) | set(self.joined) | set(self.parts)
        assert accounted == set(range(self.cursor)), "an emitted part got lost"
        if self.known:
            holders = sum(not parked for _, parked in self.parts.values())
            assert self.in_flight == holders, "a slot leaked"
        if self.cursor < SIZE:
            assert self.asked or self.in_flight > 0 or any(p for _, p in self.parts.values()), (
                "nobody emits the rest"
            )


class Real:
    """The same operations on Redis."""

    def __init__(self, desk: Any, window: int, instance: str) -> None:
        self.desk, self.window, self.instance = desk, window, instance
        self.execution = desk.start(instance).execution
        self.delivered: list[Item] = []
        self.cursor = 0
        scheduled = GroupScheduled(seq=FIRST, size=SIZE, name="act", parts="@p1", window=window)
        group = GroupOpen(FIRST, SIZE, window, min(SIZE, window), "@p1")
        (claimed,) = self._claim()
        messages = self._messages(min(SIZE, window))
        desk.commit(desk.turn(claimed, events=[scheduled], groups=[group], messages=messages))

    def _claim(self) -> list[Any]:
        return [c for c in self.desk.claim() if c.instance == self.instance]

    def _messages(self, n: int) -> list[OpenedStep]:
        start, self.cursor = self.cursor, min(SIZE, self.cursor + n)
        queue = self.desk.queue
        return [OpenedStep(FIRST + p, queue, b"m", group=FIRST) for p in range(start, self.cursor)]

    def complete(self, part: int, attempt: int, ok: bool) -> str:
        outcome = PartOutcome(result=str(part)) if ok else PartOutcome(failure=FailureDetails("E", str(part)))
        call = steps.complete(
            self.desk.keys, self.instance, self.execution, FIRST + part, attempt,
            success=ok, text=open_text(outcome), index=part, now=self.desk.now,
        )  # fmt: skip
        return self.desk.store.run(call)

    def retry(self, part: int, attempt: int) -> str:
        call = steps.retry(
            self.desk.keys, self.instance, self.execution, FIRST + part, attempt, due=self.desk.now,
            queue_key=self.desk.queue, message=b"m", failed=ATTEMPT % attempt, now=self.desk.now,
        )  # fmt: skip
        return self.desk.store.run(call)

    def promote(self) -> None:
        self.desk.store.run(flights.promote(self.desk.keys, now=self.desk.now))

    def turn(self, dissolve: bool) -> None:
        event = open_text(EventRaised(name="go"))
        call = instances.raise_event(self.desk.keys, self.instance, event, now=self.desk.now)
        self.desk.store.run(call)
        (claimed,) = self._claim()
        self.delivered += self._items(claimed.inbox)
        more: dict[str, Any] = {"dissolve": [FIRST] if dissolve else []}
        if f"E{FIRST}".encode() in claimed.inbox:
            start = self.cursor
            more["messages"] = self._messages(self.window - self.window // 2)
            more["emits"] = [GroupEmit(FIRST, start, self.cursor)]
        self.desk.commit(self.desk.turn(claimed, **more))

    def terminate(self) -> None:
        self.desk.store.run(instances.terminate(self.desk.keys, self.instance, now=self.desk.now))

    def _items(self, raw: list[bytes]) -> list[Item]:
        found: list[Item] = []
        for text in raw:
            if text == f"E{FIRST}".encode():
                found.append(("E",))
                continue
            event = decode_event(text)
            if isinstance(event, GroupCompleted):
                found.append(("all", event.failed))
            elif isinstance(event, TaskCompleted):
                assert event.result == str(event.seq - FIRST)
                found.append(("one", event.seq - FIRST, True))
            elif isinstance(event, TaskFailed):
                assert event.failure.message == str(event.seq - FIRST)
                found.append(("one", event.seq - FIRST, False))
        return found

    def agrees(self, model: Model) -> None:
        client, keys = self.desk.store.client, self.desk.keys
        assert self._items(client.lrange(keys.inbox(self.instance), 0, -1)) == model.inbox
        assert self.delivered == model.delivered
        fields = self.desk.open(self.execution)
        parts = {int(f) - FIRST: (int(v.split("|")[0]), "|p|" in v) for f, v in fields.items() if f.isdigit()}
        assert parts == model.parts
        assert (f"g{FIRST}" in fields) == model.known
        if model.known:
            counters = [int(fields[f"g{FIRST}{c}"]) for c in "cidf"]
            failed = sum(not ok for ok in model.joined.values())
            done = len(model.joined) if not model.dissolved else counters[2]
            failed = failed if not model.dissolved else counters[3]
            assert counters == [model.cursor, model.in_flight, done, failed]
            assert (f"g{FIRST}e" in fields) == model.asked
            assert (f"g{FIRST}x" in fields) == model.dissolved
        if not model.ended:
            ready = client.zscore(keys.ready, self.instance) is not None
            assert ready == bool(model.inbox)


def both(desk: Any, model: Model, real: Real, operation: str, *args: Any) -> None:
    expected = getattr(model, operation)(*args)
    assert getattr(real, operation)(*args) == expected, (operation, args)
    real.agrees(model)
    model.check()


def finish(desk: Any, model: Model, real: Real) -> None:
    """Complete whatever is left: every part must come out."""
    while not model.ended and (model.parts or model.inbox or model.cursor < SIZE):
        for part, (attempt, _) in list(model.parts.items()):
            both(desk, model, real, "complete", part, attempt, True)
        both(desk, model, real, "turn", False)
    if not model.ended:
        items = model.delivered
        assert ("all", sum(not ok for ok in model.joined.values())) in items or (
            {item[1] for item in items if item[0] == "one"} == set(range(SIZE))
        )
        both(desk, model, real, "terminate")


def test_every_order_of_five_parts_and_every_moment_of_a_dissolve(desk: Any) -> None:
    numbers = itertools.count()
    for order in itertools.permutations(range(SIZE)):
        moment = next(numbers) % (SIZE + 2)  # SIZE + 1: never
        model, real = Model(SIZE), Real(desk, SIZE, f"i{order}")
        for n, part in enumerate(order):
            if n == moment:
                both(desk, model, real, "turn", True)
            both(desk, model, real, "complete", part, 1, part % 2 == 0)
            both(desk, model, real, "complete", part, 1, True)
        finish(desk, model, real)


@pytest.mark.parametrize("seed", range(8))
def test_seeded_schedules_with_windows_retries_duplicates_and_terminate(desk: Any, seed: int) -> None:
    dice = random.Random(seed)
    for run in range(20):
        window = dice.choice((1, 2, 3, 5))
        model, real = Model(window), Real(desk, window, f"i{run}")
        for _ in range(dice.randint(5, 40)):
            part, attempt = dice.randrange(SIZE), dice.randint(1, 3)
            kind = dice.random()
            if kind < 0.35:
                both(desk, model, real, "complete", part, attempt, dice.random() < 0.6)
            elif kind < 0.6:
                both(desk, model, real, "retry", part, attempt)
            elif kind < 0.75:
                both(desk, model, real, "promote")
            elif kind < 0.97:
                if not model.ended:
                    both(desk, model, real, "turn", dice.random() < 0.15)
            elif not model.ended:
                both(desk, model, real, "terminate")
        finish(desk, model, real)


def test_a_group_opened_and_dissolved_by_one_commit_reports_singly(desk: Any) -> None:
    desk.start()
    messages = [OpenedStep(FIRST + n, desk.queue, b"m", group=FIRST) for n in range(2)]
    claimed = desk.claim_one()
    group = GroupOpen(FIRST, 3, 2, 2)
    turn = desk.turn(claimed, groups=[group], messages=messages, dissolve=[FIRST], close=[FIRST])
    assert desk.commit(turn).ready
    fields = desk.open(claimed.execution)
    assert (fields[f"g{FIRST}x"], fields[f"g{FIRST}i"], fields[f"{FIRST + 1}"]) == (
        "1",
        "1",
        f"1|q|2|{desk.queue}||g{FIRST}",
    )
    assert str(FIRST) not in fields
    assert desk.inbox() == [f"E{FIRST}"]
    outcome = open_text(PartOutcome(result="1"))
    call = steps.complete(
        desk.keys, "a", claimed.execution, FIRST + 1, 1, success=True, text=outcome, index=1, now=desk.now
    )
    assert desk.store.run(call) == "OK"
    assert [type(e).__name__ for e in desk.inbox()] == ["str", "TaskCompleted"]


def test_outcomes_of_a_group_are_read_in_index_order_with_their_attempts(desk: Any) -> None:
    model, real = Model(SIZE), Real(desk, SIZE, "a")
    both(desk, model, real, "retry", 2, 1)
    for part in reversed(range(SIZE)):
        both(desk, model, real, "complete", part, 1 + (part == 2), part != 3)
    outcomes = desk.store.run(payloads.group_outcomes(desk.keys, real.execution, FIRST, 0, SIZE))
    assert [outcome.result for outcome in outcomes] == ["0", "1", "2", None, "4"]
    assert outcomes[3].failure is not None
    assert [attempt.number for attempt in outcomes[2].attempts] == [1]
    finish(desk, model, real)
