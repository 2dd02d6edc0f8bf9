"""What one call may carry and one inbox may hold: at the limit, and one beyond it."""

from __future__ import annotations

from typing import Any

import pytest
from every_script import EVENT, contents

from celeriac.celery_app.store import LimitError, instances, queues, turns
from celeriac.celery_app.store.records import Commit, Send
from celeriac.celery_app.store.turns import MOST_BYTES, MOST_ITEMS

INBOX_MOST = 100_000  # raising.lua


def carrying(desk: Any, items: int) -> Commit:
    return desk.turn(desk.claim_one(), events=[b"1"] * (items - 1))  # beside that of its start


def test_a_commit_of_as_many_items_as_it_may_carry(desk: Any) -> None:
    desk.start()
    turn = carrying(desk, MOST_ITEMS)
    assert turn.items == MOST_ITEMS == 20_000
    desk.commit(turn)
    assert desk.store.client.llen(desk.keys.hist("a")) == MOST_ITEMS
    clear(desk)


def test_one_item_more_is_refused_before_anything_is_sent(desk: Any) -> None:
    desk.start()
    turn = carrying(desk, MOST_ITEMS + 1)
    with pytest.raises(LimitError, match=r"20001 items in .*; at most 20000 and 33554432 "):
        turns.commit(desk.keys, turn)
    clear(desk)


@pytest.mark.parametrize("over", [0, 1])
def test_bytes_of_a_commit(desk: Any, over: int) -> None:
    assert MOST_BYTES == 32 * 2**20

    def sized(n: int) -> Commit:
        return Commit(instance="a", execution="e", claim="c", base=0, events=[b"x" * n])

    # What is around the event, in MessagePack; the same for every large one.
    around = max(len(w) for w in turns.commit(desk.keys, sized(10**6)).args if isinstance(w, bytes)) - 10**6
    turn = sized(MOST_BYTES - around + over)
    if not over:
        assert max(len(w) for w in turns.commit(desk.keys, turn).args if isinstance(w, bytes)) == MOST_BYTES
        return
    with pytest.raises(LimitError, match=f"in {MOST_BYTES + 1} bytes"):
        turns.commit(desk.keys, turn)


def fill(desk: Any, waiting: int) -> None:
    """An instance that has so many events in its inbox."""
    desk.start()
    inbox = desk.keys.inbox("a")
    there = desk.store.client.llen(inbox)
    desk.store.client.rpush(inbox, *[EVENT + b',"at":1}'] * (waiting - there))


def by_client(desk: Any) -> Any:
    return instances.raise_event(desk.keys, "a", EVENT, "key", [("p", b"v")], now=desk.now)


def by_trigger(desk: Any) -> Any:
    queue = f"{desk.keys.hub}-orders"
    desk.beat("t1")
    desk.store.run(queues.push(queue, b"1"))
    (message,) = desk.store.run(queues.take(desk.keys, "t1", queue, 1, 1, desk.now))
    return queues.raise_from(desk.keys, "t1", message.number, "a", EVENT, now=desk.now)


def clear(desk: Any) -> None:
    for key in contents(desk.store):
        desk.store.client.delete(key)


@pytest.mark.parametrize("raising", [by_client, by_trigger])
def test_an_inbox_takes_its_last_event_and_none_beyond_it(desk: Any, raising: Any) -> None:
    fill(desk, INBOX_MOST - 1)
    desk.store.run(raising(desk))
    assert desk.store.client.llen(desk.keys.inbox("a")) == INBOX_MOST
    clear(desk)
    fill(desk, INBOX_MOST)
    call = raising(desk)
    before = {k: v for k, v in contents(desk.store).items() if k != desk.keys.inbox("a").encode()}
    with pytest.raises(LimitError, match="instance a has 100000 events it has not taken"):
        desk.store.run(call)
    assert desk.store.client.llen(desk.keys.inbox("a")) == INBOX_MOST
    after = {k: v for k, v in contents(desk.store).items() if k != desk.keys.inbox("a").encode()}
    assert after == before  # no payload, no dedup key; the message of the queue is still held
    clear(desk)


def test_what_another_instance_sends_is_always_taken(desk: Any) -> None:
    """It could not be told: its code went on long ago."""
    fill(desk, INBOX_MOST)
    desk.store.client.delete(desk.keys.ready)
    desk.start("b")
    reply = desk.commit(desk.turn(desk.claim_one(), sends=[Send(instance="a", event=EVENT)]))
    assert reply.undelivered == []
    assert desk.store.client.llen(desk.keys.inbox("a")) == INBOX_MOST + 1
    clear(desk)
