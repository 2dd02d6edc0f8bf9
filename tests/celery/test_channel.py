"""The transport under plain kombu: publishers and consumers without Celery and without an event loop."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from celeriac.celery_app import embedded
from celeriac.celery_app.store.keys import Keys
from celeriac.celery_app.transport.redis import Transport


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis on a loopback port; its URL."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = embedded.start(tmp_path_factory.mktemp("redis"), port=port)
    try:
        yield running.url
    finally:
        running.stop()


@pytest.fixture(params=["", "team."])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Transport options: a hub of its own, with and without a key prefix, short leases."""
    prefix = {"global_keyprefix": request.param} if request.param else {}
    return {"hub": f"k{os.urandom(3).hex()}", "lease": 1.0, "beat": 0.2, **prefix}


@contextmanager
def connect(url: str, options: dict[str, Any]) -> Iterator[Any]:
    """A kombu connection over our transport."""
    with Connection(url, transport=Transport, transport_options=options) as connection:
        yield connection


def drain(connection: Any, wanted: int, got: list[Any], seconds: float = 5) -> None:
    """Until so many messages came."""
    deadline = time.monotonic() + seconds
    while len(got) < wanted:
        assert time.monotonic() < deadline, f"{got} of {wanted}"
        try:
            connection.drain_events(timeout=0.2)
        except TimeoutError:
            continue


def flying(client: redis.Redis, options: dict[str, Any]) -> int:
    """Messages in flight records of the hub."""
    return sum(client.hlen(key) for key in client.scan_iter(f"{Keys(options['hub']).flight('')}*"))


def test_publish_consume_acknowledge(server: str, options: dict[str, Any]) -> None:
    """Priorities first, each once, flight record empty in the end; keys carry the prefix."""
    name, client, got = f"q{options['hub']}", redis.Redis.from_url(server), []
    with connect(server, options) as connection:
        queue = connection.SimpleQueue(name)
        for body, priority in (("late", 9), ("soon", 0), ("middle", 3)):
            queue.put(body, priority=priority)
        assert client.llen(f"{options.get('global_keyprefix', '')}{name}") == 1
        assert queue.qsize() == 3

        def receive(body: Any, message: Any) -> None:
            got.append(body)
            assert flying(client, options) > 0
            message.ack()

        with connection.Consumer(queue.queue, callbacks=[receive], prefetch_count=1):
            drain(connection, 3, got)
        queue.close()
    assert got == ["soon", "middle", "late"]
    assert flying(client, options) == 0
    assert client.zcard(Keys(options["hub"]).beats) == 0
    client.close()


def test_unacknowledged_and_rejected_return(server: str, options: dict[str, Any]) -> None:
    """Who leaves without an acknowledgement has the message returned; a rejected one goes last."""
    name, got = f"q{options['hub']}", []
    with connect(server, options) as connection:
        queue = connection.SimpleQueue(name)
        for body in "ab":
            queue.put(body)

        def reject_first(body: Any, message: Any) -> None:
            got.append(body)
            message.requeue() if len(got) == 1 else None

        with connection.Consumer(queue.queue, callbacks=[reject_first], prefetch_count=1):
            drain(connection, 2, got)
        queue.close()
    with connect(server, options) as connection:
        queue = connection.SimpleQueue(name)
        again = [queue.get(timeout=2) for _ in range(2)]
        assert [message.payload for message in again] == ["b", "a"]
        for message in again:
            message.ack()
        queue.close()
    assert got == ["a", "b"]


def test_single_gets_and_no_ack(server: str, options: dict[str, Any]) -> None:
    """basic_get takes one into the flight record, or none; without acknowledgement it is done at once."""
    name, client = f"q{options['hub']}", redis.Redis.from_url(server)
    with connect(server, options) as connection, connection.channel() as channel:
        queue = Queue(name, channel=channel)
        queue.declare()
        assert queue.get() is None
        producer = connection.Producer()
        for body in "ab":
            producer.publish(body, routing_key=name)
        message: Any = queue.get()
        assert (message.payload, flying(client, options)) == ("a", 1)
        message.ack()
        last: Any = queue.get(no_ack=True)
        assert last.payload == "b"
        assert flying(client, options) == 0
    client.close()


def test_a_consumer_beats_by_itself(server: str, options: dict[str, Any]) -> None:
    """Without a helper the channel renews its lease while it is drained, so nobody takes its message."""
    name, client, got = f"q{options['hub']}", redis.Redis.from_url(server), []
    with connect(server, options) as connection, connect(server, options) as other:
        queue = connection.SimpleQueue(name)
        queue.put("once")

        def keep(body: Any, message: Any) -> None:
            got.append(message)

        with (
            connection.Consumer(queue.queue, callbacks=[keep]),
            other.Consumer(queue.queue, callbacks=[keep]),
        ):
            drain(connection, 1, got)
            end = time.monotonic() + 2.5  # longer than two leases
            while time.monotonic() < end:
                for each in (connection, other):
                    with pytest.raises(TimeoutError):
                        each.drain_events(timeout=0.1)
            got[0].ack()
        queue.close()
    assert len(got) == 1
    assert flying(client, options) == 0
    client.close()


def test_fanout_and_no_ack_consumers_are_kombus_own(server: str, options: dict[str, Any]) -> None:
    """Broadcasts, and queues without acknowledgement, need no flight record and no beat."""
    exchange, got = Exchange(f"f{options['hub']}", type="fanout"), []
    client = redis.Redis.from_url(server)
    with connect(server, options) as connection:
        queues = [Queue("", exchange, exclusive=True), Queue(f"n{options['hub']}")]
        with connection.Consumer(
            queues, callbacks=[lambda body, message: got.append(body)], no_ack=True
        ) as consumer:
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.2)  # subscribes
            connection.Producer().publish("all", exchange=exchange.name, declare=[exchange])
            connection.Producer().publish("one", routing_key=consumer.queues[1].name)
            drain(connection, 2, got)
    assert sorted(got) == ["all", "one"]
    assert client.zcard(Keys(options["hub"]).beats) == 0
    client.close()


def test_credentials_are_not_part_of_any_name(server: str, tmp_path: Path) -> None:
    """The in-process register of what is held names the broker without its password."""
    url = server.replace("redis://", "redis://:secret@")
    connection = Connection(url, transport=Transport)
    assert "secret" not in connection.as_uri()


def test_a_channel_that_has_asked_nothing_reads_nothing(server: str, options: dict[str, Any]) -> None:
    """An event of another socket under our number (a lost connection's, say) must not make the loop wait."""
    with connect(server, options) as connection:
        queue = connection.SimpleQueue(f"q{options['hub']}")
        channel = connection.default_channel
        with connection.Consumer(queue.queue, callbacks=[], prefetch_count=1, channel=channel):
            assert channel.durable
            channel.client.ping()
            assert not channel._in_poll
            began = time.monotonic()
            with pytest.raises(Empty):
                channel._brpop_read()
            assert time.monotonic() - began < 4  # a socket times out after 10 s
        queue.close()


def test_an_acknowledgement_waits_for_company_and_no_longer_than_the_span(
    server: str, options: dict[str, Any]
) -> None:
    """Late acknowledgements of the engine go in one call after 50 ms; an early one is told at once."""
    client = redis.Redis.from_url(server)
    with connect(server, options) as connection:
        queue = connection.SimpleQueue(f"q{options['hub']}")
        for n in range(3):
            queue.put(n)
        channel, planned = connection.default_channel, []
        channel.connection.loop = SimpleNamespace(call_later=lambda s, f: planned.append((s, f)))
        got: list[Any] = []
        with connection.Consumer(queue.queue, callbacks=[lambda _, m: got.append(m)], channel=channel):
            drain(connection, 3, got)
            for message in got[:2]:
                channel.flying.running[message.delivery_tag].patient = True
                message.ack()
            assert flying(client, options) == 3
            ((span, tell),) = planned  # one for both
            assert span == channel.prefetch_span == 0.05
            tell()
            assert flying(client, options) == 1
            got[2].ack()  # the task is to begin now: from here on nobody may run it again
            assert flying(client, options) == 0
            assert len(planned) == 1
        channel.connection.loop = None
        queue.close()
    client.close()


def test_a_countdown_for_two_queues_waits_for_both(server: str, options: dict[str, Any]) -> None:
    """One message that an exchange gives to two queues is parked for each of them."""
    exchange = Exchange(f"{options['hub']}-both", type="direct")
    queues = [Queue(f"{options['hub']}-{n}", exchange, routing_key="r") for n in "ab"]
    eta, got = datetime.now(UTC) + timedelta(seconds=0.5), []
    with connect(server, options) as connection:
        for queue in queues:
            queue(connection.default_channel).declare()
        headers = {"task": "t", "id": "1", "eta": eta.isoformat()}
        connection.Producer(exchange=exchange, routing_key="r").publish("x", headers=headers)
        assert connection.default_channel.plain.zcard(Keys(options["hub"]).parked) == len(queues)

        def take(body: Any, message: Any) -> None:
            got.append(body)
            message.ack()

        with connection.Consumer(queues, callbacks=[take]):
            drain(connection, 2, got)
    assert got == ["x", "x"]


def test_a_get_whose_reply_is_lost_loses_no_message(server: str, options: dict[str, Any]) -> None:
    """What it took unseen goes back, though the channel lives on."""
    with connect(server, options) as connection:
        channel, queue = connection.default_channel, Queue(f"{options['hub']}-got")
        queue(channel).declare()
        assert channel.basic_get(queue.name) is None
        connection.Producer().publish("x", routing_key=queue.name)
        run = channel.run

        def lossy(call: Any) -> Any:
            channel.run = run
            run(call)
            raise ConnectionResetError("the reply is lost")

        channel.run = lossy
        with pytest.raises(ConnectionResetError):
            channel.basic_get(queue.name)
        message = channel.basic_get(queue.name)
        assert message is not None
        message.ack()
