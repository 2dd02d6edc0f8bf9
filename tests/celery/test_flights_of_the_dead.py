"""What becomes of the steps that a worker process was running when it died: a limit on running them again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac.celery_app.messages import Notes
from celeriac.celery_app.store import Store, flights, steps

NOW = 1_000_000
LEASE = 10_000
EXECUTION = "00000000000000aa"


def step(seq: int, attempt: int = 1) -> bytes:
    headers = {"celeriac-step": f"{EXECUTION}:{seq}:{attempt}", "id": f"{EXECUTION}:{seq}:{attempt}:order:7"}
    return json.dumps({"headers": headers}).encode()


class Deaths:
    """Workers that take and die, one after the other."""

    def __init__(self, store: Store) -> None:
        self.store, self.now, self.workers = store, NOW, 0
        self.open = store.keys.open(EXECUTION)

    def take(self, limit: int = 10, concurrency: int | None = None) -> tuple[str, list[bytes]]:
        """A new worker takes; its incarnation and what it got."""
        self.workers += 1
        name, keys = f"w{self.workers}", self.store.keys
        info = json.dumps({"concurrency": concurrency}) if concurrency else ""
        self.store.run(flights.beat(keys, name, LEASE, info=info, join=True, now=self.now))
        taken = self.store.run(flights.take(keys, name, 0, limit, [("q", limit)], now=self.now))
        return name, [message for _, _, message in taken.messages]

    def lapse(self, name: str) -> None:
        """Its lease runs out, and a sweep finds it."""
        self.now += LEASE + 1
        self.store.client.hset(self.store.keys.path("heard"), "last", self.now)  # by others
        self.store.run(flights.sweep_flights(self.store.keys, max_lost=2, now=self.now))

    def end_of_file(self, name: str) -> None:
        """Its beat helper sees it die."""
        self.now += 1
        keys = self.store.keys
        self.store.run(flights.adopt(keys, name, "", lease=LEASE, dead=True, max_lost=2, now=self.now))

    def state(self, seq: int = 1) -> str:
        """The field of a step, without its place in the queue."""
        found = (self.store.client.hget(self.open, str(seq)) or b"").decode()
        return re.sub(r"\|q\|-?\d+\|q\|", "", found)

    def queued(self) -> list[bytes]:
        return self.store.client.lrange("q", 0, -1)[::-1]

    def parked(self) -> dict[str, float]:
        found: list[Any] = self.store.client.zrange(self.store.keys.parked, 0, -1, withscores=True)
        return {member.decode(): score - self.now for member, score in found}


@pytest.fixture
def deaths(store: Store) -> Iterator[Deaths]:
    """The queue is not in the hub: empty it for each test, and end what was taken."""
    store.client.delete("q")
    yield Deaths(store)
    for raw in store.client.zrange(store.keys.beats, 0, -1):
        store.run(flights.forget(store.keys, raw.decode(), LEASE))
    store.client.delete("q", store.keys.open(EXECUTION), store.keys.parked, store.keys.parked_body)
    store.client.delete(store.keys.deadlines)


@pytest.mark.parametrize("die", [Deaths.lapse, Deaths.end_of_file])
def test_a_step_is_queued_once_then_waits_then_is_judged(
    deaths: Deaths, die: Callable[[Deaths, str], None]
) -> None:
    """With two deaths allowed: the third is left to who judges lapsed deadlines."""
    store, message = deaths.store, step(1)
    store.client.hset(deaths.open, mapping={"1": "1|g1", "g1": "3", "g1i": "3"})
    store.client.lpush("q", message)
    die(deaths, deaths.take()[0])
    assert (deaths.state(), deaths.queued()) == ("1|l1|g1", [message])

    name, got = deaths.take()
    assert got == [message]
    assert deaths.state().startswith(f"1|r|{name}|")
    assert deaths.state().endswith("|l1|g1")
    die(deaths, name)
    (member, due), *_ = deaths.parked().items()
    assert (deaths.state(), deaths.queued(), member) == ("1|p||l2|g1", [], f"{EXECUTION}:1:1:order:7")
    assert 2000 <= due < 4000
    assert store.client.hget(deaths.open, "g1i") == b"2", "who waits holds no slot of the window"
    deaths.now += 4000
    store.run(flights.promote(store.keys, now=deaths.now))
    assert (deaths.state(), deaths.queued()) == ("1|l2|g1", [message])
    assert store.client.hget(deaths.open, "g1i") == b"3"

    die(deaths, deaths.take()[0])
    assert (deaths.state(), deaths.queued(), deaths.parked()) == ("1|d||l2|g1", [], {})
    member = f"l:{EXECUTION}:1:1:order:7"
    assert store.client.zrange(store.keys.deadlines, 0, -1) == [member.encode()]


def test_only_what_had_started_counts(deaths: Deaths) -> None:
    """The oldest of what a worker held, as many as its pool runs at once; the finished are left out."""
    deaths.store.client.hset(deaths.open, mapping={str(seq): "1" for seq in range(1, 6)})
    for seq in range(1, 6):
        deaths.store.client.lpush("q", step(seq))
    name, _ = deaths.take(concurrency=2)
    deaths.store.client.hdel(deaths.open, "1")  # its outcome is in, its acknowledgement was still to come
    deaths.lapse(name)
    assert [deaths.state(seq) for seq in range(1, 6)] == ["", "1|l1", "1|l1", "1", "1"]
    assert deaths.queued() == [step(seq) for seq in range(2, 6)]


def test_what_a_living_worker_gives_back_does_not_count(deaths: Deaths) -> None:
    """Handed back, or returned when a connection was lost; and what counted before stays."""
    store = deaths.store
    store.client.hset(deaths.open, mapping={"1": "1", "2": "1|l1"})
    for seq in (1, 2):
        store.client.lpush("q", step(seq))
    name, _ = deaths.take()
    store.run(flights.give_back(store.keys, name, [1, 2], head=True))
    name, _ = deaths.take()
    store.run(flights.adopt(store.keys, name, "", lease=LEASE, now=deaths.now))
    assert [deaths.state(seq) for seq in (1, 2)] == ["1", "1|l1"]
    assert deaths.queued() == [step(1), step(2)]


def test_a_retry_tells_how_many_died(deaths: Deaths) -> None:
    """It starts the count anew, unless it follows a death."""
    start = {"instance": "order:7", "execution": EXECUTION, "seq": 1, "attempt": 1}
    record = deaths.store.keys.inst("order:7")
    for lost, state in ((0, "2|p|"), (2, "2|p||l2")):
        deaths.store.client.hset(deaths.open, "1", "1|r|w1|5|l1")
        deaths.store.client.hset(record, mapping={"execution": EXECUTION, "stage": "0"})
        call = steps.retry(deaths.store.keys, **start, due=5, queue_key="q", message=step(1, 2),
                           failed=b"{}", lost=lost, now=NOW)  # fmt: skip
        assert deaths.store.run(call) == "OK"
        assert deaths.state() == state
    deaths.store.client.delete(record)


def test_a_retry_keeps_what_its_message_says(deaths: Deaths) -> None:
    """For who makes another message, or judges without one; it goes with the step."""
    store, start = deaths.store, {"instance": "order:7", "execution": EXECUTION, "seq": 1}
    record = store.keys.inst("order:7")
    store.client.hset(record, mapping={"execution": EXECUTION, "stage": "0"})
    store.client.hset(deaths.open, "1", "1|r|w1|5")
    for attempt, notes in ((1, Notes(1, 1)), (2, Notes(0, 2, 1_700_000_000_000)), (3, Notes(0, 2))):
        call = steps.retry(
            store.keys, **start, attempt=attempt, due=5, queue_key="q", message=step(1, attempt + 1),
            failed=b"{}", lost=notes.lost, notes=notes.kept, now=NOW,
        )  # fmt: skip
        assert [store.run(call), store.run(call)] == ["OK", "OK"]
        kept = store.run(steps.kept_notes(store.keys, EXECUTION, 1))
        assert Notes.of_kept(kept, store.run(steps.deaths(store.keys, EXECUTION, 1))) == notes
    call = steps.complete(store.keys, **start, attempt=4, success=True, text=b"{")
    assert store.run(call) == "OK"
    assert store.client.hgetall(deaths.open) == {}
    assert store.run(steps.kept_notes(store.keys, EXECUTION, 1)) == ""
    store.client.delete(record, store.keys.inbox("order:7"), store.keys.ready, store.keys.wake)


def test_an_ordinary_retry_keeps_nothing(deaths: Deaths) -> None:
    assert Notes(lost=2).kept == ""
    assert Notes.of_kept("", 2) == Notes(lost=2)
