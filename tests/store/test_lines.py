"""Lines: a connection is kept only when nothing is left to read on it, and never by two."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis.connection import UnixDomainSocketConnection

from celeriac.celery_app.store import Call, Store, blocking, command, views
from celeriac.celery_app.store.errors import StoreError
from celeriac.orchestrations.errors import InstanceNotFoundError, RedisUnavailableError

WHO = command("CLIENT", "ID", idempotent=False)


class Interrupted(BaseException):
    """What a signal raises in the middle of a call, as Celery's soft time limit does."""


def interrupted(run: Callable[[], Any]) -> None:
    """Run it until a signal interrupts it."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Interrupted):
            run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait(store: Store) -> Call[Any]:
    """A call that Redis answers when something is pushed to the list, or after a while."""
    return command("BRPOP", store.keys.wake, blocking(8), idempotent=False)


def test_calls_one_after_another_go_over_one_connection(store: Store) -> None:
    first = store.run(WHO)
    assert store.run_all([WHO, WHO]) == [first, first]
    with pytest.raises(StoreError):
        store.run(command("HGET", "no", "such", "command"))
    assert store.run(WHO) == first, "a refusal is an answer, and the connection stays"


class LikeOneOfSentinel(UnixDomainSocketConnection):
    """redis-py's connections to a master of Sentinel stay open when a read is interrupted."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        return super().read_response(*args, **{"disconnect_on_error": False, **options})


@pytest.mark.parametrize("kind", [UnixDomainSocketConnection, LikeOneOfSentinel])
def test_an_interrupted_call_does_not_leave_its_reply_to_the_next_one(store: Store, kind: Any) -> None:
    store.client.connection_pool.connection_class = kind
    first = store.run(WHO)
    for run in (
        lambda: store.run(wait(store)),
        lambda: store.run_all([command("PING", decode=str), wait(store), command("PING")]),
    ):
        interrupted(run)
        second = store.run(WHO)
        assert isinstance(second, int), "the reply to the interrupted call"
        assert second != first, "the connection in doubt was used again"
        with pytest.raises(InstanceNotFoundError):
            store.run(views.get(store.keys, "nobody"))
        first = second


def test_a_connection_lost_while_it_was_idle_fails_no_call(store: Store) -> None:
    first = store.run(WHO)
    store.client.client_kill_filter(_id=str(first))
    assert store.run(WHO) != first
    store.client.client_kill_filter(_type="normal", skipme=True)
    assert store.run_all([WHO])[0] != first


def test_a_connection_lost_in_the_middle_fails_a_call_that_must_not_be_repeated(store: Store) -> None:
    mine: list[int] = [store.run(WHO)]
    killer = threading.Timer(0.2, lambda: store.client.client_kill_filter(_id=str(mine[0])))
    killer.start()
    with pytest.raises(RedisUnavailableError):
        store.run(wait(store))
    killer.join()
    assert store.run(WHO) != mine[0]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_use_the_connection_of_its_parent(store: Store) -> None:
    first = store.run(WHO)
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()

    def child() -> None:
        found.put((store.run(WHO), store.run_all([WHO, WHO])))

    process = context.Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    alone, both = found.get()
    assert both == [alone, alone]
    assert alone != first
    assert store.run(WHO) == first, "the child has closed its parent's connection"


def test_no_more_calls_than_allowed_are_under_way(redis_server: Any, hub: str) -> None:
    class At:
        redis_url = redis_server.url

        def __init__(self) -> None:
            self.hub = hub

    used: set[int] = set()
    with Store.connect(At(), at_once=2) as store:

        def work() -> None:
            for _ in range(3):
                used.update(store.run_all([WHO, command("BRPOP", store.keys.wake, blocking(0.01))])[:1])

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert 1 <= len(used) <= 2


def test_a_pipeline_larger_than_every_buffer_ends(store: Store) -> None:
    words = [b"%06d" % n + b"x" * 4000 for n in range(5000)]
    assert store.run_all([command("ECHO", word) for word in words]) == words


def test_a_reply_is_read_as_redis_py_reads_it(store: Store) -> None:
    assert store.run(command("HGETALL", "nothing")) == store.client.hgetall("nothing") == {}
    assert store.run(command("PING")) is True
    assert store.run(command("INFO"))["redis_mode"] == "standalone"
    assert store.run_all([command("PING"), command("ECHO", "a")]) == [True, b"a"]
    with pytest.raises(StoreError):
        store.run(command("ECHO", None))


def test_a_closed_store_connects_again(store: Store) -> None:
    first = store.run(WHO)
    store.close()
    assert store.run(WHO) != first


def test_stores_that_share_a_client_share_its_connections(store: Store) -> None:
    first = store.run(WHO)
    for _ in range(3):
        assert Store(store.client, store.keys, store.url).run(WHO) == first
