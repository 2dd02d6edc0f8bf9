"""Hazards that lose messages (reliability: H1, H2, H6, H13, H29): stock kombu has them, our transport not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
from brokers import QUEUE, Broker, drain, envelope, until
from kombu.exceptions import DecodeError
from kombu.message import Message

from celeriac.celery_app.store import Store, flights
from celeriac.celery_app.store.server import ensure_startable, info
from celeriac.orchestrations.errors import RedisUnsuitableError
from celeriac.orchestrations.history import ActivityOptions


def cut(client: redis.Redis) -> None:
    """End every connection but this one, as a crash of their processes would."""
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_h01_popped_for_a_consumer_that_dies(request: pytest.FixtureRequest, kind: str) -> None:
    """BRPOP takes the message out of Redis before anybody has noted who has it; our take notes it itself."""
    broker: Broker = request.getfixturevalue(kind)
    broker.push()
    with broker.connect() as connection, connection.channel() as channel:
        channel.queue_declare(QUEUE)
        channel.basic_consume(QUEUE, False, lambda message: None, "c")
        connection.transport.cycle.on_poll_start()  # asks Redis; the reply is never read
        until(lambda: broker.queued() == 0, what="the message to be popped")
        cut(broker.client)
        assert broker.queued() + broker.held() == (1 if broker.ours else 0)
    if broker.ours:
        store = Store(broker.client, broker.keys, broker.url)
        for _ in range(2):
            store.run(flights.sweep_flights(store.keys, now=int((time.time() + 60) * 1000)))
        assert (broker.queued(), broker.held()) == (1, 0)


def test_h02_an_envelope_that_stock_destroys_is_set_aside(stock: Broker, ours: Broker) -> None:
    """Without a delivery tag kombu raises a KeyError, which Celery takes for a lost connection."""
    broken = json.dumps({**json.loads(envelope("t")), "properties": {}})
    for broker in (stock, ours):
        broker.client.lpush(QUEUE, broken)
        got: list[str] = []
        with broker.connect() as connection, connection.channel() as channel:
            channel.queue_declare(QUEUE)
            channel.basic_consume(QUEUE, False, lambda message, got=got: got.append(message.body), "c")
            if broker.ours:
                broker.push("good", '"good"')
                drain(connection, lambda got=got: got)
            else:
                with pytest.raises(KeyError):
                    drain(connection, lambda: False)
                assert broker.queued() + broker.held() == 0
    aside: Any = ours.client.lrange(ours.keys.path("aside"), 0, -1)
    assert [entry.endswith(broken.encode()) for entry in aside] == [True]


def test_h02_user_data_reaches_the_activity_as_it_was(bench: Any) -> None:
    """kombu's decoder makes objects of what looks like its own marks; our payload is text inside the text."""
    value = {"__type__": "x", "__value__": 1}
    plain = Message(
        body=json.dumps([[value], {}, {}]), content_type="application/json", content_encoding="utf-8"
    )
    with pytest.raises(DecodeError):
        plain.decode()
    call = json.dumps([[value], {}])
    _, text = bench.emitter.activity_message("a", "i", "s", call, ActivityOptions(), 1)
    with bench.app.connection() as connection, connection.channel() as channel:
        args, _, _ = channel.Message(json.loads(text), channel=channel).decode()
    assert json.loads(args[0]) == [[value], {}]


def test_h06_a_redis_that_evicts_drops_the_queue_and_is_refused(bench: Any, stock: Broker) -> None:
    """Celery's documentation allows allkeys-lru: under pressure the whole queue is one key to evict."""
    client = stock.client
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with stock.connect() as connection:
            connection.SimpleQueue(QUEUE).put("work")
        assert stock.queued() == 1
        client.config_set("maxmemory", "100kb")
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            client.set("one", "more")  # everything else had to go for it, and that was not enough
        assert stock.queued() == 0
        with pytest.raises(RedisUnsuitableError, match="allkeys-lru"):
            ensure_startable(bench.store.run(info()), bench.settings.redis_url)
    finally:
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")
    ensure_startable(bench.store.run(info()), bench.settings.redis_url)


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_h13_what_a_dead_consumer_held_is_back_within_its_lease(
    request: pytest.FixtureRequest, kind: str
) -> None:
    """Stock: after a visibility timeout of an hour, looked for every 100 s. Ours: after a lease."""
    broker: Broker = request.getfixturevalue(kind)
    broker.push()
    first: list[Any] = []
    second: list[Any] = []
    with broker.connect() as dead, broker.connect() as living:
        channel = dead.channel()
        channel.queue_declare(QUEUE)
        channel.basic_consume(QUEUE, False, first.append, "c")
        drain(dead, lambda: first)  # and is never heard of again
        other = living.channel()
        other.basic_consume(QUEUE, False, second.append, "d")
        if broker.ours:
            drain(living, lambda: second)
            second[0].ack()
        else:
            with pytest.raises(AssertionError, match="not within"):
                drain(living, lambda: second, 3)
            assert (broker.queued(), broker.held()) == (0, 1)


def test_h29_two_messages_with_one_delivery_tag(stock: Broker, ours: Broker) -> None:
    """Stock keeps what is being worked on under the publisher's tag: one of the two has no net."""
    for broker in (stock, ours):
        got: list[Any] = []
        broker.push("same", '"a"')
        broker.push("same", '"b"')
        with broker.connect() as connection, connection.channel() as channel:
            channel.queue_declare(QUEUE)
            channel.basic_qos(0, 10, False)
            channel.basic_consume(QUEUE, False, got.append, "c")
            drain(connection, lambda got=got: len(got) == 2)
            assert broker.held() == (2 if broker.ours else 1)
            for message in got:
                message.ack()
        broker.client.flushdb()
