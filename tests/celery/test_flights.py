"""The scripts of the transport, one transition at a time, with time as an argument."""

from __future__ import annotations

import json

import pytest

from celeriac.celery_app.store import Store, flights, steps
from celeriac.celery_app.store.errors import ClashError, FencedError
from celeriac.celery_app.store.flights import Swept, Taken

NOW = 1_000_000
LEASE = 10_000
EXECUTION = "00000000000000aa"


def step(seq: int, attempt: int = 1, execution: str = EXECUTION) -> bytes:
    """A message of the engine, as far as the scripts read it."""
    return b'{"headers": {"celeriac-step": "%s:%d:%d"}}' % (execution.encode(), seq, attempt)


def join(store: Store, *names: str, now: int = NOW) -> None:
    """Incarnations that live from now on; others were there all the while."""
    store.client.hset(store.keys.path("heard"), "last", now)
    for name in names:
        store.run(flights.beat(store.keys, name, LEASE, join=True, now=now))


def sweep(store: Store, limit: int = 200, *, now: int) -> Swept:
    """A sweep by somebody who was there all the while."""
    store.client.hset(store.keys.path("heard"), "last", now)
    return store.run(flights.sweep_flights(store.keys, limit, now=now))


def take(store: Store, name: str, limit: int = 10, *queues: str, base: int = 0, now: int = NOW) -> Taken:
    """Take from the queues."""
    caps = [(queue, limit) for queue in queues or ("q",)]
    return store.run(flights.take(store.keys, name, base, limit, caps, now=now))


def publish(store: Store, *messages: bytes, queue: str = "q") -> None:
    """Put messages on a queue."""
    for message in messages:
        store.run(flights.publish(store.keys, queue, message))


def queued(store: Store, queue: str = "q") -> list[bytes]:
    """What lies in the queue, in the order of taking."""
    return store.client.lrange(queue, 0, -1)[::-1]


@pytest.fixture(autouse=True)
def clean(store: Store) -> object:
    """The queue is not in the hub: empty it for each test, and end what was taken."""
    store.client.delete("q", "q\x06\x163", "q2")
    yield None
    for raw in store.client.zrange(store.keys.beats, 0, -1):
        store.run(flights.forget(store.keys, raw.decode(), LEASE))
    store.client.delete("q", "q\x06\x163", "q2", store.keys.open(EXECUTION), store.keys.path("parked"))
    store.client.delete(store.keys.parked_body)


def test_take_in_order_by_priority_and_cap(store: Store) -> None:
    """Fields count up; what stays behind leaves a token, and keeps lower priorities back."""
    join(store, "w1")
    publish(store, b"a", b"b", b"c")
    publish(store, b"d", queue="q\x06\x163")
    keys = [("q", 2), ("q\x06\x163", 1)]
    taken = store.run(flights.take(store.keys, "w1", 5, 10, keys, now=NOW))
    assert taken == Taken([(6, 0, b"a"), (7, 0, b"b")], 0, True)
    assert store.client.llen(store.keys.token("q")) > 0
    taken = store.run(flights.take(store.keys, "w1", 7, 10, keys, now=NOW))
    assert taken == Taken([(8, 0, b"c"), (9, 1, b"d")], 0, False)
    assert store.client.llen(store.keys.token("q")) == 0
    assert store.run(flights.ack(store.keys, "w1", [6, 7, 8, 9])) == 4
    assert store.run(flights.ack(store.keys, "w1", [6])) == 0


def test_take_marks_and_refuses_steps(store: Store) -> None:
    """Open and current: marked, the group kept. Closed, older, malformed, or running elsewhere: dropped."""
    join(store, "w1", "w2")
    key = store.keys.open(EXECUTION)
    store.client.hset(key, mapping={"1": "1", "2": "2|g2", "3": "2"})
    publish(store, step(1), step(2, 2), step(3, 1), step(4), b'{"celeriac-step": "; DROP"}', step(1))
    taken = take(store, "w1")
    assert [m for _, _, m in taken.messages] == [step(1), step(2, 2)]
    assert taken.dropped == 4
    assert store.client.hget(key, "1") == b"1|r|w1|%d" % NOW
    assert store.client.hget(key, "2") == b"2|r|w1|%d|g2" % NOW
    publish(store, step(1))
    assert take(store, "w2").dropped == 1
    # A copy is dropped until a sweep says that the holder is dead, and gives back what that one held.
    publish(store, step(1))
    assert take(store, "w2", now=NOW + LEASE).dropped == 1
    join(store, "w3", now=NOW + LEASE)
    sweep(store, now=NOW + LEASE)
    again = take(store, "w3", now=NOW + LEASE + 1)
    assert [m for _, _, m in again.messages] == [step(1), step(2, 2)]


def test_only_the_living_take(store: Store) -> None:
    """An incarnation that was never announced, or was condemned, is refused and has taken nothing."""
    publish(store, b"a")
    with pytest.raises(FencedError):
        take(store, "w1")
    join(store, "w1")
    sweep(store, now=NOW + LEASE)
    with pytest.raises(FencedError):
        take(store, "w1")
    with pytest.raises(FencedError):
        store.run(flights.beat(store.keys, "w1", LEASE, join=True, now=NOW))
    assert queued(store) == [b"a"]


def test_a_key_that_is_no_queue(store: Store) -> None:
    """Refused before anything is taken from the others."""
    join(store, "w1")
    publish(store, b"a")
    store.client.set("q2", "mine")
    with pytest.raises(ClashError, match="q2"):
        take(store, "w1", 10, "q", "q2")
    assert queued(store) == [b"a"]


def test_give_back_to_head_and_tail(store: Store) -> None:
    """What was not started comes first again, in its old order; what was rejected comes last."""
    join(store, "w1")
    store.client.hset(store.keys.open(EXECUTION), "1", "1|g1")
    publish(store, b"a", step(1), b"c", b"d")
    take(store, "w1", 3)
    assert store.run(flights.give_back(store.keys, "w1", [1, 2], head=True)) == 2
    assert store.run(flights.give_back(store.keys, "w1", [3], head=False)) == 1
    assert queued(store) == [b"a", step(1), b"d", b"c"]
    assert store.client.hget(store.keys.open(EXECUTION), "1") == b"1|q|-1|q||g1"  # the next to go


@pytest.mark.parametrize("instance", ["order:7", 'an "odd" name: ünï"'])
def test_what_is_queued_again_has_no_time_running_against_it(store: Store, instance: str) -> None:
    """The deadlines of an attempt that was given back after its start, whatever its instance is called."""
    join(store, "w1")
    store.client.hset(store.keys.open(EXECUTION), "1", "1")
    headers = {"celeriac-step": f"{EXECUTION}:1:1", "id": f"{EXECUTION}:1:1:{instance}"}
    publish(store, json.dumps({"headers": headers}).encode())
    take(store, "w1")
    armed = steps.arm(store.keys, instance, EXECUTION, 1, 1, close_in=1000, beat_in=500, now=NOW)
    assert store.run(armed)
    assert store.client.zcard(store.keys.path("deadlines")) == 2
    assert store.run(flights.give_back(store.keys, "w1", [1], head=True)) == 1
    assert store.client.zcard(store.keys.path("deadlines")) == 0


def test_what_was_closed_meanwhile_does_not_return(store: Store) -> None:
    """A step that another attempt finished leaves with the flight record."""
    join(store, "w1")
    store.client.hset(store.keys.open(EXECUTION), "1", "1")
    publish(store, step(1))
    take(store, "w1")
    store.client.hdel(store.keys.open(EXECUTION), "1")
    assert store.run(flights.give_back(store.keys, "w1", [1], head=True)) == 0
    assert queued(store) == []


def test_adopt(store: Store) -> None:
    """Acknowledged goes, running moves with its mark, the rest returns, and a late take is refused.

    Twice is once.
    """
    join(store, "w1")
    key = store.keys.open(EXECUTION)
    store.client.hset(key, "1", "1")
    publish(store, b"a", step(1), b"c", b"d")
    take(store, "w1")
    for _ in range(2):
        kept = store.run(flights.adopt(store.keys, "w1", "w2", keep=[2], acked=[1], lease=LEASE, now=NOW + 5))
        assert kept == {2}
    assert queued(store) == [b"c", b"d"]
    assert store.client.hget(key, "1") == b"1|r|w2|%d" % NOW
    assert store.client.zrange(store.keys.beats, 0, -1) == [b"w2"]
    with pytest.raises(FencedError):
        take(store, "w1")
    assert store.run(flights.ack(store.keys, "w2", [2])) == 1


def test_sweep(store: Store) -> None:
    """The dead are condemned, emptied a bounded number at a time, and forgotten when found empty.

    Orchestrators are not ours.
    """
    join(store, "w1", "o1")
    join(store, "w2", now=NOW + LEASE)
    publish(store, *(b"%d" % n for n in range(5)))
    take(store, "w1")
    later = NOW + LEASE + 1
    assert sweep(store, 3, now=later) == Swept(3, 1, 0)
    assert sweep(store, 3, now=later) == Swept(2, 0, 0)
    assert sweep(store, 3, now=later) == Swept(0, 0, 1)
    assert sweep(store, 3, now=later) == Swept(0, 0, 0)
    assert sorted(queued(store)) == [b"%d" % n for n in range(5)]
    assert set(store.client.zrange(store.keys.beats, 0, -1)) == {b"w2", b"o1"}


def test_park_and_promote(store: Store) -> None:
    """At its time a message moves to its queue; a retry only while it is the one that is waited for."""
    keys, key = store.keys, store.keys.open(EXECUTION)
    store.client.hset(key, mapping={"1": "2|p|", "2": "3|p|", "3": "2|r|w9|1"})
    store.run(flights.park(keys, "~tag", "q", b"foreign", NOW + 10))
    for seq in (1, 2, 3, 4):
        store.run(flights.park(keys, f"{EXECUTION}:{seq}:2:order:7", "q", step(seq, 2), NOW + 5))
    assert store.run(flights.promote(keys, 100, now=NOW)) == (0, NOW + 5)
    assert store.run(flights.promote(keys, 100, now=NOW + 5)) == (1, NOW + 10)
    assert store.client.hget(key, "1") == b"2|q|1|q|"
    assert store.run(flights.promote(keys, 100, now=NOW + 10)) == (1, -1)
    assert queued(store) == [step(1, 2), b"foreign"]
    assert store.client.llen(keys.token("q")) > 0


def test_park_what_was_taken(store: Store) -> None:
    """It leaves the flight record in the same call, and cannot be parked when it has left already."""
    join(store, "w1")
    publish(store, b"a")
    take(store, "w1")
    call = flights.park(store.keys, "~a", "q", b"a", NOW + 5, incarnation="w1", field=1)
    assert store.run(call) is True
    assert store.run(call) is False
    assert store.client.exists(store.keys.flight("w1")) == 0


def test_beat_reports_revoked_steps(store: Store) -> None:
    """Closed, or at a later attempt."""
    store.client.hset(store.keys.open(EXECUTION), mapping={"1": "1|r|w1|5", "2": "2"})
    ids = [f"{EXECUTION}:{seq}:1:order:7" for seq in (1, 2, 3)]
    call = flights.beat(store.keys, "w1", LEASE, info="{}", join=True, running=ids, now=NOW)
    assert store.run(call) == ids[1:]
    assert store.run(flights.is_current(store.keys, EXECUTION, 1, 1)) is True
    assert store.run(flights.is_current(store.keys, EXECUTION, 2, 1)) is False
    assert store.run(flights.is_current(store.keys, EXECUTION, 3, 1)) is False


def test_a_dead_worker_is_found_behind_many_dead_of_other_kinds(store: Store) -> None:
    """Only orchestrators look after those, and none may be alive."""
    publish(store, b"a")
    join(store, "w1")
    take(store, "w1")
    store.client.zadd(store.keys.beats, {f"o{n:016x}": 1 for n in range(300)})
    assert sweep(store, now=NOW + LEASE).condemned == 1
    assert queued(store) == [b"a"]
    store.client.zremrangebyscore(store.keys.beats, 1, 1)
