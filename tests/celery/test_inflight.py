"""What a worker holds when its incarnation is given up: after a lost connection, or a lease that lapsed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celeriac.celery_app.store import Store, flights
from celeriac.celery_app.transport.inflight import Held, InFlight
from celeriac.celery_app.transport.prefetch import Pace
from celeriac.orchestrations.errors import RedisUnavailableError

LEASE = 10_000
EXECUTION = "00000000000000bb"


def step(seq: int) -> bytes:
    """A message of the engine, as far as the scripts read it."""
    return b'{"headers": {"celeriac-step": "%s:%d:1"}}' % (EXECUTION.encode(), seq)


@pytest.fixture
def queue(store: Store) -> Iterator[str]:
    """A queue with the messages of two open steps; at the end nothing is held, open or queued."""
    name = f"{store.keys.hub}-queue"
    for seq in (1, 2):
        store.client.hset(store.keys.open(EXECUTION), str(seq), "1")
        store.run(flights.publish(store.keys, name, step(seq)))
    yield name
    for raw in store.client.zrange(store.keys.beats, 0, -1):
        store.run(flights.forget(store.keys, raw.decode(), LEASE))
    store.client.delete(name, store.keys.open(EXECUTION))


def worker(store: Store, queue: str) -> tuple[InFlight, Held]:
    """One that has taken both messages and started the first."""
    flying = InFlight("test", store.keys, LEASE, Pace())
    name = flying.settle(store.run)
    flying.took(name, store.run(flights.take(store.keys, name, flying.numbers(2), 2, [(queue, 2)])), ["q"])
    held = flying.next(1)
    assert held is not None
    return flying, held


def test_what_runs_stays_with_its_worker_over_a_lost_connection(store: Store, queue: str) -> None:
    """Nobody else gets it, and its acknowledgement still counts."""
    flying, held = worker(store, queue)
    before = flying.incarnation
    flying.abandon()
    after = flying.settle(store.run)
    assert after != before
    assert (held.incarnation, list(flying.running)) == (after, [held.tag])
    assert store.client.hget(store.keys.open(EXECUTION), "1").startswith(b"1|r|" + after.encode())
    assert store.client.lrange(queue, 0, -1) == [step(2)]
    flying.finish(held.tag)
    flying.flush(store.run)
    assert store.client.hlen(store.keys.flight(after)) == 0


def test_a_fenced_worker_starts_nothing_of_what_it_had_taken(store: Store, queue: str) -> None:
    """Others have it."""
    flying, held = worker(store, queue)
    flying.abandon(flying.incarnation)
    flying.finish(held.tag)
    assert flying.next(1) is None
    flying.settle(store.run)
    assert flying.next(1) is None


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("end", ["acknowledged", "rejected", "dropped"])
def test_what_ends_between_two_tries_of_an_adoption(store: Store, queue: str, end: str, told: bool) -> None:
    """The reply to the first was lost: it moved what has ended since. The other goes on under the heir."""
    store.client.delete(queue)
    for message in (b'{"task": 1}', b'{"task": 2}'):  # plain ones: no step tells a second copy to be one
        store.run(flights.publish(store.keys, queue, message))
    flying, held = worker(store, queue)
    other = flying.next(2)
    flying.abandon()

    def lossy(call: Any) -> Any:
        store.run(call)
        raise RedisUnavailableError("the reply is lost")

    with pytest.raises(RedisUnavailableError):
        flying.settle(lossy)
    if end == "dropped":
        flying.forget(held.tag)
    else:
        flying.finish(held.tag, requeue=end == "rejected")
    if told:
        flying.flush(store.run)
    heir = flying.settle(store.run)
    flying.flush(store.run)
    assert list(flying.running.values()) == [other]
    assert store.client.hkeys(store.keys.flight(heir)) == [b"%d" % other.number if other else b""]
    assert store.client.lrange(queue, 0, -1) == ([] if end == "acknowledged" else [b'{"task": 1}'])
