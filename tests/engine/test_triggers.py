"""Queue triggers in one process: what a message leads to, what a failing one leads to, and stopping."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celeriac.celery_app.client.sync import Client, Status
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store
from celeriac.celery_app.triggers import MessageClient, QueueTriggers
from celeriac.orchestrations import OrchestrationContext, orchestrator
from celeriac.orchestrations.errors import InvalidArgumentError
from celeriac.orchestrations.history import EventRaised, decode_event
from celeriac.orchestrations.registry import OrchestratorDefinition, Registry
from celeriac.orchestrations.triggers import QueueTrigger

REGISTRY = Registry()
REGISTRY.add(OrchestratorDefinition(name="flow", version="", function=lambda ctx: None))


@orchestrator(name="count", registry=REGISTRY)
async def count(ctx: OrchestrationContext, upto: int) -> int:
    return upto


@pytest.fixture
def settings(store: Store) -> Settings:
    return Settings(redis_url=store.url, hub=store.keys.hub, lease=1.0, beat=0.2)


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with Client(settings=settings, registry=REGISTRY) as made:
        yield made


@pytest.fixture
def queue(store: Store) -> Iterator[str]:
    """A list of this test alone, gone with its poison when the test is over."""
    name = f"orders-{store.keys.hub}"
    yield name
    store.client.delete(name, name + "-poison")


@pytest.fixture
def listen(client: Client) -> Iterator[Callable[..., QueueTriggers]]:
    """Starts listeners; they are stopped at the end, before residue is looked for."""
    running: list[QueueTriggers] = []

    def start(*triggers: QueueTrigger, **more: Any) -> QueueTriggers:
        made = QueueTriggers(client, triggers, first_delay=0.02, **{"poll": 0.25, **more})
        running.append(made)
        made.start()
        return made

    yield start
    for triggers in running:
        triggers.stop()


def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def test_each_message_starts_one_instance_with_it_as_input(
    client: Client, store: Store, queue: str, listen: Any
) -> None:
    store.client.lpush(queue, '{"n": 1}')
    listen(QueueTrigger(queue, orchestrator="flow"), poll=3.0)
    until(lambda: len(client.list()) == 1)
    start = time.monotonic()
    assert client.push(queue, {"n": 2}) >= 0
    store.client.lpush(queue, "[3]", '"four"', "null")
    until(lambda: len(client.list()) == 5)
    assert time.monotonic() - start < 2.5  # woken, not polled
    assert sorted(str(s.input) for s in client.list()) == sorted(
        ["{'n': 1}", "{'n': 2}", "[3]", "four", "None"]
    )
    assert {s.name for s in client.list()} == {"flow"}
    assert store.client.exists(queue) == 0


def test_messages_are_taken_oldest_first(client: Client, store: Store, queue: str, listen: Any) -> None:
    seen: list[int] = []
    for n in range(40):
        client.push(queue, n)
    listen(QueueTrigger(queue, starter=lambda message, client: seen.append(message)))
    until(lambda: len(seen) == 40)
    assert seen == list(range(40))


def test_a_starter_decides_what_a_message_leads_to(client: Client, queue: str, listen: Any) -> None:
    bound: list[MessageClient] = []

    def starter(message: dict[str, Any], client: MessageClient) -> None:
        bound.append(client)
        for part in message["parts"]:
            client.start("flow", part, tags={"order": message["id"]})

    listen(QueueTrigger(queue, starter=starter))
    client.push(queue, {"id": "7", "parts": [1, 2, 3]})
    until(lambda: len(client.list(tag="order=7")) == 3)
    assert bound[0].queue == queue
    assert bound[0].tries == 1


def test_an_async_starter_is_awaited(client: Client, queue: str, listen: Any) -> None:
    async def starter(message: Any, client: MessageClient) -> None:
        client.start("flow", message)

    listen(QueueTrigger(queue, starter=starter))
    client.push(queue, 1)
    client.push(queue, 2)
    until(lambda: len(client.list()) == 2)


def test_a_starter_that_fails_halfway_starts_nothing_twice(client: Client, queue: str, listen: Any) -> None:
    tries: list[int] = []

    def starter(message: int, client: MessageClient) -> None:
        tries.append(client.tries)
        client.start("flow", "first")
        if client.tries < 3:
            raise ValueError("not yet")
        client.start("flow", "second")

    listen(QueueTrigger(queue, starter=starter))
    client.push(queue, 1)
    until(lambda: tries == [1, 2, 3])
    until(lambda: len(client.list()) == 2)
    assert sorted(s.input for s in client.list()) == ["first", "second"]


def test_an_event_goes_to_the_instance_the_message_names(
    client: Client, store: Store, queue: str, listen: Any
) -> None:
    client.start("flow", instance_id="a")
    listen(QueueTrigger(queue, event="Approved", max_dequeue=2))
    client.push(queue, {"instanceId": "a", "data": {"by": "me"}})
    client.push(queue, {"instanceId": "nobody", "data": 1})
    client.push(queue, {"data": 1})
    client.push(queue, "text")
    until(lambda: len(client.poison(queue)) == 3)
    reasons = sorted(p.reason for p in client.poison(queue))
    assert "nobody" in reasons[0] + reasons[1] + reasons[2]
    assert sum("instanceId" in r for r in reasons) == 2
    tries = {str(p.message): p.tries for p in client.poison(queue)}
    assert tries["text"] == tries["{'data': 1}"] == 1, "it will never name an instance"
    events = [decode_event(raw) for raw in store.client.lrange(store.keys.inbox("a"), 0, -1)]
    assert [(e.name, e.input) for e in events if isinstance(e, EventRaised)] == [("Approved", '{"by":"me"}')]


def test_bad_json_ends_in_the_poison_list_with_its_reason(
    client: Client, store: Store, queue: str, listen: Any
) -> None:
    listen(QueueTrigger(queue, orchestrator="flow", max_dequeue=3))
    store.client.lpush(queue, '{"n": 1', b"\xff\xfe", '{"n": 2}')
    until(lambda: len(client.poison(queue)) == 2 and len(client.list()) == 1)
    assert client.list().items[0].input == {"n": 2}
    first = client.poison(queue)[0]
    assert first.message == '{"n": 1'
    assert first.tries == 1, "it will never be JSON"
    assert "JSON" in first.reason
    assert first.to_payload()["since"].endswith("Z")
    (sizes,) = client.queue_sizes(queue)
    assert (sizes.waiting, sizes.poison) == (0, 2)


def test_a_message_that_does_not_fit_the_input_is_given_up_at_once(
    client: Client, queue: str, listen: Any
) -> None:
    listen(QueueTrigger(queue, orchestrator="count", max_dequeue=3))
    for message in ("many", None, 3):
        client.push(queue, message)
    until(lambda: len(client.poison(queue)) == 2 and len(client.list()) == 1)
    assert [poison.tries for poison in client.poison(queue)] == [1, 1], "it will never fit"
    assert "does not fit orchestrator 'count'" in client.poison(queue)[0].reason


def test_an_input_that_a_starter_gets_wrong_keeps_its_tries(client: Client, queue: str, listen: Any) -> None:
    listen(QueueTrigger(queue, starter=lambda message, client: client.start("count", "x"), max_dequeue=2))
    client.push(queue, 1)
    until(lambda: len(client.poison(queue)) == 1)
    assert client.poison(queue)[0].tries == 2


def test_a_failing_message_blocks_nobody_and_can_be_redriven(
    client: Client, store: Store, queue: str, listen: Any
) -> None:
    broken = threading.Event()
    broken.set()

    def starter(message: str, client: MessageClient) -> None:
        if message == "bad" and broken.is_set():
            raise RuntimeError("the gateway is down")
        client.start("flow", message)

    listen(QueueTrigger(queue, starter=starter, max_dequeue=4))
    client.push(queue, "bad")
    client.push(queue, "good")
    until(lambda: len(client.list()) == 1)
    until(lambda: len(client.poison(queue)) == 1)
    poison = client.poison(queue)[0]
    assert (poison.message, poison.tries, poison.reason) == ("bad", 4, "RuntimeError: the gateway is down")
    broken.clear()
    assert client.redrive(queue) == 1
    assert client.redrive(queue) == 0
    until(lambda: len(client.list()) == 2)
    assert client.poison(queue) == ()


def test_an_unknown_orchestrator_is_the_reason(client: Client, queue: str, listen: Any) -> None:
    listen(QueueTrigger(queue, orchestrator="flwo", max_dequeue=1))
    client.push(queue, 1)
    until(lambda: len(client.poison(queue)) == 1)
    assert "did you mean 'flow'" in client.poison(queue)[0].reason


def test_a_starter_cannot_end_its_listener(client: Client, queue: str, listen: Any) -> None:
    def starter(message: str, client: MessageClient) -> None:
        if message == "exit":
            sys.exit(3)
        client.start("flow", message)

    listen(QueueTrigger(queue, starter=starter, max_dequeue=2))
    client.push(queue, "exit")
    client.push(queue, "good")
    until(lambda: len(client.list()) == 1 and len(client.poison(queue)) == 1)
    assert client.poison(queue)[0].reason == "SystemExit: 3"


def test_a_stop_gives_back_what_waits_for_another_try(
    client: Client, store: Store, queue: str, listen: Any
) -> None:
    failed = threading.Event()

    def starter(message: int, client: MessageClient) -> None:
        failed.set()
        raise ValueError("no")

    first = QueueTriggers(client, [QueueTrigger(queue, starter=starter, max_dequeue=9)], first_delay=60)
    first.start()
    client.push(queue, 1)
    assert failed.wait(10)
    first.stop()
    assert client.workers() == ()
    assert client.queue_sizes(queue)[0].waiting == 1
    seen: list[int] = []
    listen(QueueTrigger(queue, starter=lambda message, client: seen.append(client.tries)))
    until(lambda: seen == [2])


def test_a_running_starter_may_end_before_the_stop(client: Client, queue: str) -> None:
    begun = threading.Event()

    def starter(message: int, client: MessageClient) -> None:
        begun.set()
        time.sleep(2.0)  # longer than the lease
        client.start("flow", message)

    triggers = QueueTriggers(client, [QueueTrigger(queue, starter=starter)])
    triggers.start()
    client.push(queue, 1)
    client.push(queue, 2)
    assert begun.wait(10)
    triggers.stop()
    assert client.workers() == ()
    assert [s.input for s in client.list()] == [1]
    assert client.queue_sizes(queue)[0].waiting == 1


def test_listeners_show_among_the_processes(client: Client, queue: str, listen: Any) -> None:
    listen(QueueTrigger(queue, orchestrator="flow"))
    until(lambda: len(client.workers()) == 1)
    (process,) = client.workers()
    assert process.kind == "listener"
    assert process.info["queues"] == [queue]


def test_a_queue_name_is_checked(client: Client) -> None:
    for bad in ("", "a b", "x" * 129, "orders-poison"):
        with pytest.raises(InvalidArgumentError):
            client.push(bad, 1)


def test_redis_gone_for_a_while_loses_nothing(client: Client, store: Store, queue: str, listen: Any) -> None:
    listen(QueueTrigger(queue, orchestrator="flow"))
    for n in range(200):
        store.client.lpush(queue, str(n))
        if n % 20 == 0:
            for connection in store.client.client_list(_type="normal"):
                if connection["cmd"] != "client|list":
                    store.client.client_kill_filter(_id=connection["id"])
    until(lambda: len(client.list(limit=1000)) >= 200 and store.client.llen(queue) == 0)
    assert sorted(s.input for s in client.list(limit=1000)) == list(range(200))
    assert {s.status for s in client.list(limit=1000)} == {Status.PENDING}
