"""The drivers: both colours, what is sent again, errors, and nothing half done without memory."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celeriac.celery_app.store import (
    AsyncStore,
    Store,
    StoreFullError,
    blocking,
    command,
    instances,
    keys,
    steps,
    views,
)
from celeriac.celery_app.store.errors import FencedError, StoreError, error_for
from celeriac.celery_app.store.records import open_text
from celeriac.orchestrations.errors import CeleriacError, InstanceExistsError, RedisUnavailableError
from celeriac.orchestrations.history import EventRaised


@dataclass(frozen=True)
class At:
    redis_url: str
    hub: str = "test"


def test_the_async_store_runs_the_same_calls(desk: Any) -> None:
    async def scenario() -> None:
        async with AsyncStore.connect(At(desk.store.url, desk.keys.hub)) as store:
            request = desk.request("a")
            await store.client.script_flush()
            assert (await store.run(instances.start(store.keys, request, desk.now))).created
            await store.client.script_flush()
            first, second = await store.run_all(
                [views.get(store.keys, "a"), instances.start(store.keys, desk.request("a"))]
            )
            assert first.status == "Pending"
            assert isinstance(second, InstanceExistsError)
            with pytest.raises(InstanceExistsError):
                await store.run(instances.start(store.keys, desk.request("a")))

    asyncio.run(scenario())


def test_an_error_of_one_call_in_a_pipeline_does_not_hide_the_others(desk: Any) -> None:
    calls = [instances.start(desk.keys, desk.request(i), desk.now) for i in ("a", "a", "b")]
    first, second, third = desk.store.run_all(calls)
    assert (first.created, third.created) == (True, True)
    assert isinstance(second, InstanceExistsError)
    assert desk.store.run_all([]) == []


def test_a_redis_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        Store.connect(At(f"redis://user:secret@127.0.0.1:{port}/0")) as store,
        pytest.raises(RedisUnavailableError) as caught,
    ):
        store.run(command("PING", idempotent=False))
    assert "secret" not in str(caught.value)
    assert f"127.0.0.1:{port}" in str(caught.value)


def test_a_refused_login_and_a_replica_are_told_apart_from_silence(desk: Any, tmp_path: Path) -> None:
    client = desk.store.client
    client.execute_command("ACL", "SETUSER", "eve", "on", ">pw", "~*", "+@all")
    try:
        path = desk.store.url.removeprefix("unix://")
        with (
            Store.connect(At(f"unix://eve:wrong@{path}")) as store,
            pytest.raises(RedisUnavailableError, match="refuses the login") as caught,
        ):
            store.run(command("PING"))
        assert "wrong" not in str(caught.value)
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(RedisUnavailableError, match="read-only replica"):
            desk.start()
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.execute_command("ACL", "DELUSER", "eve")


class Dropper:
    """A server that counts connections, swallows what they send and hangs up, `times` times; then answers."""

    def __init__(self, times: int) -> None:
        self.left, self.seen = times, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            if b"ECHO" not in data:  # the client's own hand-shake
                writer.write(b"+PONG\r\n" if b"PING" in data else b"+OK\r\n" * data.count(b"*"))
                continue
            self.seen += 1
            if self.left > 0:
                self.left -= 1
                break
            writer.write(b"+hello\r\n")
        writer.close()


@pytest.mark.parametrize(("idempotent", "tries"), [(True, 3), (False, 1)])
def test_only_idempotent_calls_are_sent_again(tmp_path: Path, idempotent: bool, tries: int) -> None:
    async def scenario() -> None:
        dropper = Dropper(2)
        path = tmp_path / "s"
        server = await asyncio.start_unix_server(dropper.serve, path)
        async with server, AsyncStore.connect(At(f"unix://{path}")) as store:
            if idempotent:
                assert await store.run(command("ECHO", "hello", idempotent=True))
            else:
                with pytest.raises(RedisUnavailableError):
                    await store.run(command("ECHO", "hello", idempotent=False))
            assert dropper.seen == tries

    asyncio.run(scenario())


def test_the_first_word_of_a_refusal_names_its_class() -> None:
    assert isinstance(error_for("FENCED by someone"), FencedError)
    assert str(error_for("EXISTS an instance")) == "an instance"
    assert type(error_for("ERR unknown")) is StoreError
    assert isinstance(error_for("OOM command not allowed when used memory > 'maxmemory'."), StoreFullError)


def snapshot(desk: Any) -> dict[bytes, bytes]:
    client = desk.store.client
    return {key: client.dump(key) for key in client.scan_iter(match=desk.keys.hub + "*")}


def test_without_memory_every_script_refuses_and_writes_nothing(desk: Any) -> None:
    desk.start("a")
    claimed = desk.step(**desk.activity(1))
    desk.start("b")
    held = desk.claim_one()
    text = open_text(EventRaised(name="go"))
    failed = b'{"number":1,"at":1,"error_type":"E","message":"no"}'
    before = snapshot(desk)
    desk.store.client.config_set("maxmemory", "100kb")
    try:
        for attempt in (
            lambda: desk.start("c"),
            lambda: desk.start("a", on_conflict="terminate_existing"),
            lambda: desk.complete(claimed, 1),
            lambda: desk.commit(desk.turn(held, **desk.activity(1))),
            lambda: desk.store.run(instances.raise_event(desk.keys, "a", text)),
            lambda: desk.store.run(instances.suspend(desk.keys, "a")),
            lambda: desk.store.run(instances.cancel(desk.keys, "a")),
            lambda: desk.store.run(instances.terminate(desk.keys, "a")),
            lambda: desk.store.run(
                steps.retry(
                    desk.keys, "a", claimed.execution, 1, 1, due=desk.now, queue_key=desk.queue, message=b"m",
                    failed=failed,
                )
            ),
        ):  # fmt: skip
            with pytest.raises(StoreFullError):
                attempt()
    finally:
        desk.store.client.config_set("maxmemory", "0")
    assert snapshot(desk) == before
    assert desk.complete(claimed, 1) == "OK"
    desk.commit(desk.turn(held))


def test_a_hub_name_is_checked() -> None:
    for bad in ("", "a b", "a:b", "{a}"):
        with pytest.raises(ValueError, match="hub"):
            keys.Keys(bad)
    assert issubclass(StoreError, CeleriacError)


@pytest.mark.parametrize("seconds", [0, 0.0004, 0.001, 0.002, 0.01])
def test_a_short_block_ends(store: Store, seconds: float) -> None:
    """Redis 6.2 cuts 0.001 s down to 0, for ever: an orchestrator would sit there until it is woken."""
    assert store.run(command("BRPOP", store.keys.wake, blocking(seconds))) is None
