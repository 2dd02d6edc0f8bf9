"""Near Redis' memory limit new instances are refused, those that run can end, and space can be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac.celery_app.store import StoreFullError, instances, queues
from celeriac.orchestrations.errors import RedisFullError

FILLING = 20_000_000  # bytes, so that what a test does itself weighs nothing


@pytest.fixture
def used(desk: Any) -> Iterator[Callable[[float], None]]:
    """Set maxmemory so that this share of it is used, and let what was found before grow old."""
    client, filling = desk.store.client, f"{desk.keys.hub}-filling"
    client.setrange(filling, FILLING, b"x")  # made there: a long command would stay in a buffer for a while

    def use(share: float) -> None:
        memory = client.info("memory")
        counted = memory["used_memory"] - memory["mem_not_counted_for_evict"]
        client.config_set("maxmemory", int(counted / share))
        desk.now += 1000
        desk.beat(desk.incarnation)

    yield use
    client.config_set("maxmemory", "0")
    client.delete(filling)


def test_new_instances_are_refused_until_there_is_room_again(desk: Any, used: Any) -> None:
    used(0.88)
    desk.start("a")
    used(0.92)
    with pytest.raises(StoreFullError, match="until it is below 85 %") as caught:
        desk.start("b")
    assert isinstance(caught.value, RedisFullError)
    assert caught.value.exit_code == 12
    used(0.88)
    with pytest.raises(StoreFullError):  # not yet: or it would go to and fro
        desk.start("b")
    used(0.82)
    desk.start("b")
    for claimed in desk.claim():
        desk.commit(desk.turn(claimed))


def test_what_runs_goes_on_and_ends_though_nothing_new_starts(desk: Any, used: Any) -> None:
    desk.start("done")
    desk.end()
    desk.start("a")
    used(0.95)
    claimed = desk.step(**desk.activity(1))
    assert desk.complete(claimed, 1) == "OK"
    with pytest.raises(StoreFullError):
        desk.store.run(instances.restart(desk.keys, "done", now=desk.now))
    assert desk.record("done")["status"] == "Completed"
    desk.end()
    assert desk.record()["status"] == "Completed"
    desk.store.run(instances.purge(desk.keys, "done"))
    desk.store.run(instances.purge(desk.keys, "a"))
    desk.store.client.delete(desk.queue)


def test_a_start_that_was_applied_answers_so_even_when_redis_is_full_now(desk: Any, used: Any) -> None:
    request = desk.request("a")
    assert desk.store.run(instances.start(desk.keys, request, desk.now)).created
    used(0.95)
    assert desk.store.run(instances.start(desk.keys, request, desk.now)).created
    kept = desk.request("a", on_conflict="use_existing")
    assert not desk.store.run(instances.start(desk.keys, kept, desk.now)).created
    desk.commit(desk.turn(desk.claim_one()))


def test_a_message_of_a_trigger_waits_until_there_is_room(desk: Any, used: Any) -> None:
    queue = f"{desk.keys.hub}-orders"
    desk.store.run(queues.push(queue, b"1"))
    used(0.95)
    desk.beat("t1")
    (message,) = desk.store.run(queues.take(desk.keys, "t1", queue, 1, 1, desk.now))
    start = queues.start_from(desk.keys, "t1", message.number, desk.request("a"), desk.now)
    with pytest.raises(StoreFullError):
        desk.store.run(start)
    used(0.5)
    again = queues.start_from(desk.keys, "t1", message.number, desk.request("a"), desk.now)
    assert desk.store.run(again).created
    desk.commit(desk.turn(desk.claim_one()))
