"""Queue triggers: exactly one instance or event per message, tries, poison and redrive."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.store import ClashError, FencedError, GoneError, queues
from celeriac.celery_app.store.records import open_text
from celeriac.orchestrations.errors import InstanceExistsError, InstanceNotFoundError
from celeriac.orchestrations.history import EventRaised


@pytest.fixture
def queue(desk: Any) -> str:
    desk.beat("t1")
    return desk.keys.hub + "-orders"


def take(desk: Any, queue: str, limit: int = 10, n: int = 1) -> list[Any]:
    return desk.store.run(queues.take(desk.keys, "t1", queue, n, limit, desk.now))


def test_a_message_starts_exactly_one_instance(desk: Any, queue: str) -> None:
    desk.store.run(queues.push(queue, b'{"n":1}'))
    assert desk.store.run(queues.wait(queue, 1))
    (message,) = take(desk, queue)
    assert (message.message, message.tries) == (b'{"n":1}', 0)
    assert not desk.store.run(queues.wait(queue, 0.01))
    call = queues.start_from(desk.keys, "t1", message.number, desk.request("a"), desk.now)
    assert desk.store.run(call).created
    with pytest.raises(GoneError):
        desk.store.run(call)
    assert desk.record()["status"] == "Pending"


def test_a_refused_start_leaves_the_message_with_its_listener(desk: Any, queue: str) -> None:
    desk.start("a")
    desk.store.run(queues.push(queue, b"1"))
    (message,) = take(desk, queue)
    with pytest.raises(InstanceExistsError):
        desk.store.run(queues.start_from(desk.keys, "t1", message.number, desk.request("a"), desk.now))
    use = desk.request("a", on_conflict="use_existing")
    assert not desk.store.run(queues.start_from(desk.keys, "t1", message.number, use, desk.now)).created


def test_a_message_becomes_an_event_of_an_instance(desk: Any, queue: str) -> None:
    desk.store.run(queues.push(queue, b"1"))
    (message,) = take(desk, queue)
    text = open_text(EventRaised(name="go"))
    call = queues.raise_from(desk.keys, "t1", message.number, "a", text, now=desk.now)
    with pytest.raises(InstanceNotFoundError):
        desk.store.run(call)
    desk.start("a")
    assert desk.store.run(call)
    with pytest.raises(GoneError):
        desk.store.run(call)
    assert [type(e).__name__ for e in desk.inbox()] == ["ExecutionStarted", "EventRaised"]


def test_after_its_tries_a_message_is_poison_and_can_be_driven_again(desk: Any, queue: str) -> None:
    binary = b"\xff\nnot json"
    desk.store.run(queues.push(queue, binary))
    for n, expected in enumerate(("AGAIN", "AGAIN", "POISON")):
        (message,) = take(desk, queue, n=n + 1)
        assert (message.tries, message.message) == (n, binary)
        reason = {"error": "bad\nJSON", "tries": n + 1}
        assert desk.store.run(queues.back(desk.keys, "t1", message.number, 3, reason)) == expected
        assert desk.store.run(queues.back(desk.keys, "t1", message.number, 3, reason)) == "GONE"
    (poisoned,) = desk.store.run(queues.poisoned(queue))
    assert (poisoned.reason, poisoned.message) == ({"error": "bad\nJSON", "tries": 3}, binary)
    assert desk.store.run(queues.redrive(desk.keys, queue)) == 1
    (message,) = take(desk, queue, n=9)
    assert (message.tries, message.message) == (0, binary)
    assert desk.store.run(queues.strike(desk.keys, "t1", message.number)) == 1
    assert desk.store.run(queues.back(desk.keys, "t1", message.number, 9, {}, strike=False)) == "AGAIN"
    (message,) = take(desk, queue, n=10)
    assert message.tries == 1
    desk.store.run(queues.start_from(desk.keys, "t1", message.number, desk.request("a"), desk.now))
    assert desk.store.run(queues.strike(desk.keys, "t1", message.number)) == -1


def test_messages_are_taken_in_the_order_they_were_pushed(desk: Any, queue: str) -> None:
    desk.store.run(queues.push(queue, b"1", b"2"))
    desk.store.run(queues.push(queue, b"3"))
    messages = take(desk, queue)
    assert [m.message for m in messages] == [b"1", b"2", b"3"]
    for message in messages:
        desk.store.run(
            queues.start_from(desk.keys, "t1", message.number, desk.request(message.message.decode()))
        )


def test_a_silent_listener_and_a_key_of_another_type_are_refused(desk: Any, queue: str) -> None:
    with pytest.raises(FencedError, match="t9"):
        desk.store.run(queues.take(desk.keys, "t9", queue, 1, 1, desk.now))
    desk.store.client.set(queue, "mine")
    with pytest.raises(ClashError, match=queue):
        take(desk, queue)
    with pytest.raises(ClashError):
        desk.store.run(queues.redrive(desk.keys, queue))
    desk.store.client.delete(queue)
