"""Hazards that repeat a write or report a wrong outcome (H14, H15, H16, H17, H19, H21, H26)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import redis
from brokers import QUEUE, Broker, Unreliable, drain
from celery import Celery
from celery.app.task import Context
from celery.app.trace import trace_task
from celery.backends.redis import RedisBackend
from celery.exceptions import Reject

from celeriac.celery_app.activity_worker.runtime import runtime_of
from celeriac.celery_app.app import create_app
from celeriac.celery_app.messages import GroupRef
from celeriac.celery_app.store import Store, flights, instances, turns
from celeriac.celery_app.store.errors import FencedError
from celeriac.celery_app.store.records import Commit, GroupOpen, open_text
from celeriac.orchestrations.errors import RedisUnavailableError
from celeriac.orchestrations.history import EventRaised, GroupCompleted, TaskCompleted, decode_event

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's own


@pytest.fixture
def proxy(server: str) -> Iterator[Unreliable]:
    """A way to the server that loses replies when told to."""
    made = Unreliable(server)
    yield made
    made.close()


def test_h14_a_lost_reply_repeats_what_was_pushed(proxy: Unreliable, client: redis.Redis, bench: Any) -> None:
    """redis-py by itself sends a lost LPUSH again; our store does so only with what may be sent twice."""
    with proxy.default_client() as theirs:
        theirs.ping()
        proxy.lose(b"LPUSH", 2)
        theirs.lpush(QUEUE, "m")
    assert client.llen(QUEUE) == 3
    push = flights.publish(bench.store.keys, QUEUE, "m")
    bench.store.run(push)
    with Store.connect(replace(bench.settings, redis_url=proxy.url)) as store:
        proxy.lose(b"EVALSHA", 1)
        with pytest.raises(RedisUnavailableError):
            store.run(push)
    assert (proxy.lost, client.llen(QUEUE)) == (1, 5)


def test_h26_a_commit_whose_reply_is_lost_is_applied_once(proxy: Unreliable, bench: Any) -> None:
    """A transaction that redis-py repeats is applied again; our script knows what it has done."""
    client, keys = bench.store.client, bench.store.keys
    with proxy.default_client() as theirs:
        theirs.ping()
        proxy.lose(b"EXEC", 1)
        with theirs.pipeline(transaction=True) as pipe:
            pipe.rpush("history", "event")
            pipe.execute()
    assert client.llen("history") == 2
    bench.call("warm", "add", "[[1,2],{}]")  # Redis knows the scripts
    waiting, direct = client.llen(bench.settings.queue_key()), bench.store
    with Store.connect(replace(bench.settings, redis_url=proxy.url)) as store:
        bench.store = store
        proxy.lose(b"EVALSHA", 2)
        execution = bench.start("a")
        assert proxy.lost == 2
        turn = turns_of(bench, "a", execution)
        proxy.lose(b"EVALSHA", 2)
        store.run(turns.commit(keys, turn))
    bench.store = direct
    assert proxy.lost == 2
    assert client.llen(keys.hist("a")) == len(turn.events) == 1
    assert client.llen(bench.settings.queue_key()) == waiting + 1
    with pytest.raises(FencedError):
        direct.run(turns.commit(keys, msgspec.structs.replace(turn, claim="another")))


def turns_of(bench: Any, instance: str, execution: str) -> Commit:
    """The first turn of an instance, that calls one activity."""
    keys = bench.store.keys
    bench.store.run(flights.beat(keys, "o1", 60_000, join=True))
    (claimed,) = bench.store.run(turns.claim(keys, "o1", 1, 5))
    return Commit(
        instance=instance, execution=execution, claim=claimed.claim, base=0, inbox=len(claimed.inbox),
        events=list(claimed.inbox), messages=[bench.step(instance, execution, "add", "[[1,2],{}]")],
    )  # fmt: skip


class Recorder(RedisBackend):
    """Celery's own backend, which also keeps what it was told and in which order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: list[str] = []

    def mark_as_done(self, *args: Any, **kwargs: Any) -> Any:
        """The task returned."""
        self.told.append("done")
        return super().mark_as_done(*args, **kwargs)

    def mark_as_failure(self, task_id: str, exc: Any, *args: Any, **kwargs: Any) -> Any:
        """The task failed."""
        self.told.append(type(exc).__name__)
        return super().mark_as_failure(task_id, exc, *args, **kwargs)


def told_of(url: str, result: Any) -> list[str]:
    """Run a stock task that returns this; what Celery told the result backend at that URL."""
    app = Celery(set_as_current=False)

    @app.task(name="returns", shared=False)
    def returns() -> Any:
        return result

    task: Any = app.tasks["returns"]
    task.backend = Recorder(app=app, url=url, retry_policy={"max_retries": 0})
    request = {"id": "t", "args": [], "kwargs": {}, "is_eager": False, "delivery_info": {}}
    with suppress(Exception):
        trace_task(task, "t", (), {}, request, app=app)
    return task.backend.told


def request_of(message: bytes) -> tuple[str, Context]:
    """What a worker's backend is given of a message of ours."""
    headers = json.loads(message)["headers"]
    return headers["id"], Context({**headers, "args": ["[[1,2],{}]"], "kwargs": {}, "chord": None})


def test_h15_contradictory_reports_have_one_outcome(bench: Any, server: str) -> None:
    """Celery reports a result that it cannot encode as done and then as failed. The first outcome stands."""
    assert told_of(server, object()) == ["done", "EncodeError"]
    execution = bench.start("both")
    step = bench.step("both", execution, "add", "[[1,2],{}]")
    bench.commit("both", execution, messages=[step])
    task_id, request = request_of(step.message)
    bench.app.backend.mark_as_done(task_id, "3", request)
    bench.app.backend.mark_as_failure(task_id, ValueError("afterwards"), request=request)
    (event,) = bench.inbox("both")
    assert isinstance(event, TaskCompleted)


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
def test_h16_a_success_that_cannot_be_stored_is_reported_as_a_failure(bench: Any) -> None:
    """Celery turns a Redis that is away into FAILURE of a task that succeeded; ours waits, or gives back."""
    nowhere = "redis://127.0.0.1:1/0"
    assert told_of(nowhere, 7) == ["done", "ConnectionError"]
    execution = bench.start("away")
    step = bench.step("away", execution, "add", "[[1,2],{}]")
    bench.commit("away", execution, messages=[step])
    task_id, request = request_of(step.message)
    app = create_app(replace(bench.settings, redis_url=nowhere), load=False)
    runtime_of(app)._on_shutdown()  # what Celery's signal calls
    with pytest.raises(Reject) as given_back:
        app.backend.mark_as_done(task_id, "3", request)
    assert given_back.value.requeue is True
    assert bench.inbox("away") == []


def test_h17_a_join_does_not_wait_for_a_size_that_its_publisher_never_wrote(bench: Any, server: str) -> None:
    """Celery writes the size of a chord when its last part is sent; ours is in the commit that opens it."""
    app = Celery(broker=server, backend=server, set_as_current=False)
    body = app.signature("body", args=([],), queue=QUEUE)
    for n in range(2):
        request = Context({"id": f"p{n}", "group": "g", "group_index": n, "chord": body, "is_eager": False})
        app.backend.on_chord_part_return(request, "SUCCESS", n)
    assert bench.store.client.llen(QUEUE) == 0, "all parts are done, and the body is never called"
    app.close()

    execution = bench.start("chord")
    group = [GroupRef(f"{execution}:1", n, 2) for n in range(2)]
    steps = [bench.step("chord", execution, "add", "[[1,2],{}]", seq=1 + n, group=group[n]) for n in range(2)]
    bench.commit("chord", execution, messages=steps, groups=[GroupOpen(1, 2, 2, 2)])
    for step in steps:
        task_id, request = request_of(step.message)
        bench.app.backend.mark_as_done(task_id, "3", request)
    (event,) = bench.inbox("chord")
    assert isinstance(event, GroupCompleted)


def test_h19_nothing_of_a_running_instance_expires(bench: Any, server: str) -> None:
    """Celery's results and chord counters are gone after a day; no key of a running instance has an end."""
    client = bench.store.client
    app = Celery(backend=server, set_as_current=False)
    app.backend.store_result("t", 1, "SUCCESS")
    assert 0 < client.ttl("celery-task-meta-t") <= 86_400
    client.delete("celery-task-meta-t")
    execution = bench.start("lasting")
    step = bench.step("lasting", execution, "add", "[[1,2],{}]")
    bench.commit("lasting", execution, messages=[step])
    task_id, request = request_of(step.message)
    bench.app.backend.mark_as_done(task_id, json.dumps("x" * 100_000), request)
    assert {key: client.ttl(key) for key in client.scan_iter() if client.ttl(key) != -1} == {}
    assert not list(client.scan_iter("celery-task-meta-*"))
    app.close()


def test_h21_events_keep_their_order_also_when_their_reader_dies(stock: Broker, bench: Any) -> None:
    """A rejected message goes behind the rest in stock's list; events of an instance are never reordered."""
    got: list[str] = []
    with stock.connect() as connection, connection.channel() as channel:
        for body in "ab":
            connection.SimpleQueue(QUEUE).put(body)

        def reject_first(message: Any) -> None:
            got.append(message.payload)
            message.requeue() if len(got) == 1 else message.ack()

        channel.basic_consume(QUEUE, False, reject_first, "c")
        drain(connection, lambda: len(got) == 3)
    assert got == ["a", "b", "a"]

    keys, names = bench.store.keys, [f"e{n}" for n in range(30)]
    bench.start("ordered")
    for name in names:
        text = open_text(EventRaised(name=name))
        bench.store.run(instances.raise_event(keys, "ordered", text))
    began = int(time.time() * 1000) + 1000
    for n, reader in enumerate(("o1", "o2")):
        now = began + n * 60_000
        bench.store.run(flights.beat(keys, reader, 1000, join=True, now=now))
        (claimed,) = bench.store.run(turns.claim(keys, reader, 100 * n + 1, 5, now=now))
        events = [decode_event(item) for item in claimed.inbox]
        assert [event.name for event in events if isinstance(event, EventRaised)] == names
        bench.store.client.hset(keys.path("heard"), "last", now + 30_000)  # others live
        bench.store.run(turns.sweep(keys, now=now + 30_000))
