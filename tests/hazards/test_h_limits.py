"""Hazards of connections, clocks, keys and sizes (H22, H24, H27, H28, H33, H34)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import kombu.transport.redis as kombu_redis
import pytest
import redis
from brokers import QUEUE, Broker, drain
from celery import Celery
from kombu.exceptions import ChannelError

from celeriac.celery_app.store import AsyncStore, command
from celeriac.orchestrations.errors import RedisUnavailableError
from celeriac.orchestrations.history import ActivityOptions

HOUR = 3600.0


def test_h22_publisher_and_consumer_with_other_priority_steps(stock: Broker) -> None:
    """The message lies in a list that nobody reads, and nobody says so; `celeriac doctor` does."""
    got: list[Any] = []
    with stock.connect(priority_steps=[0, 5]) as publisher, stock.connect() as consumer:
        publisher.SimpleQueue(QUEUE).put("never", priority=5)
        publisher.SimpleQueue(QUEUE).put("read", priority=0)
        channel = consumer.channel()
        channel.queue_declare(QUEUE)
        channel.basic_consume(QUEUE, True, lambda message: got.append(message.payload), "c")
        drain(consumer, lambda: got)
        with pytest.raises(AssertionError, match="not within"):
            drain(consumer, lambda: len(got) > 1, 1)
    assert (got, stock.client.llen(f"{QUEUE}\x06\x165")) == (["read"], 1)


def test_h24_more_callers_than_connections(bench: Any, stock: Broker) -> None:
    """kombu's pool of ten raises at once, as if Redis were gone; ours lets callers wait."""
    with stock.connect() as connection, connection.channel() as channel:
        pool = channel.pool
        taken = [pool.get_connection() for _ in range(10)]
        with pytest.raises(redis.ConnectionError, match="Too many connections"):
            pool.get_connection()
        for one in taken:
            pool.release(one)

    async def crowd() -> list[Any]:
        async with AsyncStore.connect(bench.settings, at_once=4) as store:
            calls = [command("PING", idempotent=False) for _ in range(200)]
            return await asyncio.gather(*(store.run(call) for call in calls), return_exceptions=True)

    assert not [reply for reply in asyncio.run(crowd()) if isinstance(reply, RedisUnavailableError)]


def test_h27_a_key_prefix_reaches_every_command(stock: Broker, ours: Broker) -> None:
    """kombu 5.7 does not prefix EXISTS: a queue that is asked for passively is there and not found."""
    for broker in (stock, ours):
        with broker.connect(global_keyprefix="pre.") as connection, connection.channel() as channel:
            connection.SimpleQueue(QUEUE).put("x")
            assert broker.client.llen(f"pre.{QUEUE}") == 1
            if broker.ours:
                assert channel.queue_declare(QUEUE, passive=True).message_count == 1
            else:
                with pytest.raises(ChannelError):
                    channel.queue_declare(QUEUE, passive=True)
        broker.client.flushdb()


def test_h28_what_travels_with_a_message(bench: Any, stock: Broker) -> None:
    """A megabyte of argument makes 1.3 MB in the list, and is shown in headers and logs; ours is not."""
    value = "x" * 1_000_000
    with closing(Celery(broker=stock.url, set_as_current=False)) as app:
        app.send_task("t", [value], queue=QUEUE, ignore_result=True)
    found: Any = stock.client.lrange(QUEUE, 0, -1)
    (entry,) = found
    assert len(entry) > 1_333_000
    assert "xxx" in json.loads(entry)["headers"]["argsrepr"]
    _, text = bench.emitter.activity_message("a", "i", "s", json.dumps([[value], {}]), ActivityOptions(), 1)
    headers = json.loads(text)["headers"]
    assert "xxx" not in json.dumps(headers)


def test_h33_eager_mode_routers_and_receivers_change_no_message_of_ours(bench: Any) -> None:
    """Celery runs an eager task in the caller, and asks routers where to send; our message is fixed."""
    ran: list[int] = []
    with closing(Celery(broker=bench.settings.redis_url, set_as_current=False)) as app:
        app.conf.update(task_always_eager=True)

        @app.task(name="eager", shared=False)
        def eager() -> None:
            ran.append(1)

        app.tasks["eager"].delay()
    assert ran == [1]
    wanted, _ = bench.emitter.activity_message("a", "i", "s", "[[],{}]", ActivityOptions(), 1)
    bench.app.conf.update(task_always_eager=True, task_routes={"*": {"queue": "elsewhere"}})
    fresh = type(bench.emitter)(bench.app, bench.settings)
    key, text = fresh.activity_message("a", "i", "s", "[[],{}]", ActivityOptions(), 1)
    assert key == wanted == bench.settings.queue_key()
    assert json.loads(text)["properties"]["delivery_info"]["routing_key"] == bench.settings.queue


def forward(by: float) -> Callable[[], float]:
    """A wall clock that is wrong by so many seconds."""
    real = time.time
    return lambda: real() + by


def test_h34_a_wrong_wall_clock_takes_nothing_from_the_living(
    stock: Broker, ours: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock: a worker whose clock is two hours ahead gives away what others run. Our scripts ask Redis."""
    for broker in (stock, ours):
        held: list[Any] = []
        broker.push()
        with broker.connect(lease=HOUR) as living, broker.connect(lease=HOUR) as wrong:
            channel = living.channel()
            channel.queue_declare(QUEUE)
            channel.basic_consume(QUEUE, False, held.append, "c")
            drain(living, lambda held=held: held)
            other = wrong.channel()
            other.basic_consume(QUEUE, False, lambda message: None, "d")
            with monkeypatch.context() as patched:
                patched.setattr(time, "time", forward(2 * HOUR))
                patched.setattr(kombu_redis, "time", time.time)
                wrong.transport.cycle.maybe_restore_messages()
                if broker.ours:
                    wrong.transport.cycle.on_poll_start()  # joins
                    wrong.transport.cycle.maintain()  # beats and sweeps
            assert (broker.queued() + broker.held(), broker.held()) == (1, 1 if broker.ours else 0)
        broker.client.flushdb()
