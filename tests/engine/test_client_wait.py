"""Waiting: many waiters, threads and asyncio, on one subscription; also through a lost connection."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from celeriac.celery_app import embedded
from celeriac.celery_app.client.sync import AsyncClient, Client, Status
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store, turns
from celeriac.celery_app.store.endings import endings_of
from celeriac.celery_app.store.records import Commit
from celeriac.orchestrations.errors import (
    InstanceNotFoundError,
    InvalidArgumentError,
    RedisUnavailableError,
    RedisUnsuitableError,
)
from celeriac.orchestrations.history import ExecutionCompleted, encode_event
from celeriac.orchestrations.registry import OrchestratorDefinition, Registry

REGISTRY = Registry()
REGISTRY.add(OrchestratorDefinition(name="flow", version="", function=lambda ctx: None))
REGISTRY.add(OrchestratorDefinition("order", "", lambda ctx, number: None, input_type=int))


@pytest.fixture
def settings(store: Store) -> Settings:
    return Settings(redis_url=store.url, hub=store.keys.hub)


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with Client(settings=settings, registry=REGISTRY) as made:
        yield made


class Finisher:
    """Ends every instance that is ready, with its id as the output."""

    def __init__(self, store: Store) -> None:
        self.store, self.numbers = store, itertools.count(1, 1000)

    def __call__(self) -> int:
        self.store.client.zadd(self.store.keys.beats, {"o1": 2**50})
        claimed = self.store.run(turns.claim(self.store.keys, "o1", next(self.numbers), 100))
        for one in claimed:
            output = f'"{one.instance}"'
            turn = Commit(
                instance=one.instance,
                execution=one.execution,
                claim=one.claim,
                base=one.history_length,
                events=[*one.inbox, encode_event(ExecutionCompleted(output=output))],
                inbox=len(one.inbox),
                status="Completed",
                output=output,
            )
            self.store.run(turns.commit(self.store.keys, turn))
        return len(claimed)


@pytest.fixture
def finish(store: Store) -> Finisher:
    return Finisher(store)


def until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def subscribers(store: Store) -> list[int]:
    """The ids of the connections in subscriber mode."""
    return [int(c["id"]) for c in store.client.client_list(_type="pubsub")]


def test_a_finished_instance_is_returned_at_once(client: Client, finish: Finisher, store: Store) -> None:
    client.start("flow", instance_id="a")
    finish()
    before = endings_of(store.url).waiting
    assert client.wait("a", timeout=0).output == "a"
    assert endings_of(store.url).waiting == before


def test_the_end_wakes_the_waiter(client: Client, finish: Finisher) -> None:
    client.start("flow", instance_id="a")
    threading.Timer(0.3, finish).start()
    start = time.monotonic()
    assert client.wait("a", timeout=10).status is Status.COMPLETED
    assert 0.25 < time.monotonic() - start < 8.0  # not by the recheck, which comes after 15 s


def test_a_time_out_says_how_things_stand(client: Client, finish: Finisher) -> None:
    client.start("flow", instance_id="a")
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"'a' has not ended within 0.3 s; it is Pending"):
        client.wait("a", timeout=0.3)
    assert time.monotonic() - start < 5.0
    finish()


def test_many_threads_wait_over_one_connection(client: Client, finish: Finisher, store: Store) -> None:
    ids = [client.start("flow", instance_id=f"i{n}") for n in range(40)]
    with ThreadPoolExecutor(80) as pool:
        waiting = [pool.submit(client.wait, i, 20) for i in ids * 2]
        until(lambda: endings_of(store.url).waiting == 80)
        assert len(subscribers(store)) == 1
        finish()
        assert [w.result().output for w in waiting] == ids * 2
    until(lambda: endings_of(store.url).waiting == 0)


def test_waiters_survive_a_lost_connection(client: Client, finish: Finisher, store: Store) -> None:
    ids = [client.start("flow", instance_id=f"i{n}") for n in range(5)]
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(client.wait, i, 20) for i in ids]
        until(lambda: endings_of(store.url).waiting == 5 and len(subscribers(store)) == 1)
        for _ in range(3):
            (old,) = subscribers(store)
            store.client.client_kill_filter(_id=str(old))
            until(lambda old=old: len(subscribers(store)) == 1 and subscribers(store) != [old])
        finish()
        assert [w.result().output for w in waiting] == ids


def test_an_end_missed_while_the_connection_was_away_is_seen(
    client: Client, finish: Finisher, store: Store
) -> None:
    client.start("flow", instance_id="a")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait, "a", 20)
        until(lambda: len(subscribers(store)) == 1)
        store.client.client_kill_filter(_id=str(subscribers(store)[0]))
        finish()
        start = time.monotonic()
        assert waiting.result().output == "a"
        assert time.monotonic() - start < 8.0


def test_a_purge_wakes_nobody_for_ever(client: Client, store: Store) -> None:
    client.start("flow", instance_id="a")
    client.terminate("a")
    assert client.purge("a") == 1
    with pytest.raises(InstanceNotFoundError):
        client.wait("a", timeout=1)


def test_asyncio_waiters_share_the_subscription(settings: Settings, finish: Finisher, store: Store) -> None:
    async def main() -> list[str]:
        async with AsyncClient(settings=settings, registry=REGISTRY) as client:
            ids = [await client.start("flow", instance_id=f"i{n}") for n in range(30)]
            waiting = [asyncio.create_task(client.wait(i, 20)) for i in ids]
            while endings_of(store.url).waiting < 30:
                await asyncio.sleep(0.01)
            assert len(subscribers(store)) == 1
            with pytest.raises(TimeoutError):
                await client.wait("i0", 0.2)
            waiting[0].cancel()
            await asyncio.to_thread(finish)
            done = await asyncio.gather(*waiting, return_exceptions=True)
            assert isinstance(done[0], asyncio.CancelledError)
            return [state.output for state in done[1:] if not isinstance(state, BaseException)]

    assert asyncio.run(main()) == [f"i{n}" for n in range(1, 30)]
    until(lambda: endings_of(store.url).waiting == 0)


def _wait_in_child(url: str, hub: str, answers: Any) -> None:
    with Client(settings=Settings(redis_url=url, hub=hub), registry=REGISTRY) as client:
        answers.put(client.wait("a", 20).output)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_makes_its_own_subscription(client: Client, finish: Finisher, store: Store) -> None:
    client.start("flow", instance_id="a")
    with pytest.raises(TimeoutError):
        client.wait("a", 0.2)
    assert any(t.name == "celeriac-endings" for t in threading.enumerate())  # in the parent
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_wait_in_child, args=(store.url, store.keys.hub, answers))
    child.start()
    until(lambda: len(subscribers(store)) == 1)  # the child's: nobody waits in the parent any more
    finish()
    assert answers.get(timeout=15) == "a"
    child.join(10)
    assert child.exitcode == 0


def test_a_waiter_survives_a_restart_of_redis() -> None:
    directory = Path(tempfile.mkdtemp(prefix="clr"))
    redis = embedded.start(directory)
    try:
        settings = Settings(redis_url=redis.url)
        with Client(settings=settings, registry=REGISTRY) as client, Store.connect(settings) as store:
            client.start("flow", instance_id="a")
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(client.wait, "a", 40)
                until(lambda: endings_of(settings.redis_url).waiting == 1 and len(subscribers(store)) == 1)
                redis.kill()
                redis.restart()
                Finisher(store)()
                start = time.monotonic()
                assert waiting.result().output == "a"
                assert time.monotonic() - start < 5
    finally:
        redis.stop()
        shutil.rmtree(directory, ignore_errors=True)


def test_a_redis_that_evicts_keys_is_refused_before_anything_is_written() -> None:
    directory = Path(tempfile.mkdtemp(prefix="clr"))
    redis = embedded.start(directory)
    try:
        settings = Settings(redis_url=redis.url)
        with Store.connect(settings) as store:
            store.client.config_set("maxmemory-policy", "allkeys-lru")
            with Client(settings=settings, registry=REGISTRY) as client:
                with pytest.raises(RedisUnsuitableError, match="maxmemory-policy is allkeys-lru"):
                    client.start("flow")
                assert store.client.dbsize() == 0
                store.client.config_set("maxmemory-policy", "noeviction")
                client.start("flow")
            store.client.set(store.keys.schema, "999")
            with (
                Client(settings=settings, registry=REGISTRY) as client,
                pytest.raises(RedisUnsuitableError, match="newer Celeriac"),
            ):
                client.list()
    finally:
        redis.stop()
        shutil.rmtree(directory, ignore_errors=True)


def test_redis_away_is_said_with_the_address(tmp_path: Path) -> None:
    settings = Settings(redis_url=f"unix://{tmp_path}/none.sock")
    with Client(settings=settings, registry=REGISTRY) as client:
        for verb in (lambda: client.start("flow"), lambda: client.get("a"), lambda: client.wait("a", 5)):
            with pytest.raises(RedisUnavailableError, match=r"none\.sock"):
                verb()


def test_what_needs_no_redis_to_be_refused_is_refused_without_one(tmp_path: Path) -> None:
    settings = Settings(redis_url=f"unix://{tmp_path}/none.sock")
    with Client(settings=settings, registry=REGISTRY) as client:
        for verb in (
            lambda: client.start("flow", instance_id="a/b"),
            lambda: client.start("order", "not a number"),
            lambda: client.get("a/b"),
            lambda: client.wait("a/b", 5),
            lambda: client.raise_event("a", "\n"),
            lambda: client.list(limit=0),
            lambda: client.purge(),
        ):
            with pytest.raises(InvalidArgumentError):
                verb()
