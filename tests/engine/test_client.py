"""The verbs of Client and AsyncClient on a real Redis, every test with both; the tests play the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from client_desk import Awaited, Player

from celeriac.celery_app.client.sync import AsyncClient, Client, OrchestrationFailedError, Status
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store, turns
from celeriac.orchestrations.errors import (
    InstanceEndedError,
    InstanceExistsError,
    InstanceNotEndedError,
    InstanceNotFoundError,
    InvalidArgumentError,
    PayloadTooLargeError,
    UnknownNameError,
)
from celeriac.orchestrations.history import (
    CustomStatusSet,
    EventRaised,
    ExecutionCompleted,
    ExecutionStarted,
    ExecutionSuspended,
    decode_event,
)
from celeriac.orchestrations.registry import Orchestrator, OrchestratorDefinition, Registry


@dataclass
class Order:
    sku: str
    count: int


async def fulfil(ctx: Any, order: Order) -> int:
    return order.count


def definition(name: str, version: str = "", **more: Any) -> OrchestratorDefinition:
    return OrchestratorDefinition(name=name, version=version, function=fulfil, **more)


FULFIL = definition("fulfil", "2", input_type=Order)


@pytest.fixture
def settings(store: Store) -> Settings:
    return Settings(redis_url=store.url, hub=store.keys.hub, max_payload=300_000, aside_over=2048)


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.add(FULFIL)
    for name in ("flow", "other"):
        made.add(definition(name))
    made.add(OrchestratorDefinition(name="plain", version="", function=lambda ctx: None, takes_input=False))
    asks = OrchestratorDefinition(
        name="asks", version="", function=lambda ctx: ctx.get_input(), takes_input=False
    )
    made.add(asks)
    return made


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, settings: Settings, registry: Registry) -> Iterator[Client]:
    if request.param == "sync":
        made: Any = Client(settings=settings, registry=registry)
    else:
        made = Awaited(lambda: AsyncClient(settings=settings, registry=registry))
    yield cast(Client, made)
    made.close()


@pytest.fixture
def player(store: Store) -> Player:
    return Player(store)


def test_start_get_and_the_payload(client: Client, player: Player) -> None:
    before = datetime.now(UTC)
    order = client.start("flow", {"n": 1}, instance_id="order-1", tags={"customer": "7"})
    assert order == "order-1"
    state = client.get("order-1")
    assert (state.id, state.name, state.status, state.input) == ("order-1", "flow", Status.PENDING, {"n": 1})
    assert abs(state.created_at - before) < timedelta(seconds=5)
    assert (state.output, state.failure, state.custom_status, dict(state.tags)) == (
        None,
        None,
        None,
        {"customer": "7"},
    )
    player.turn(CustomStatusSet(value='"half"'), custom='"half"')
    assert client.get("order-1").status is Status.RUNNING
    assert client.get("order-1").custom_status == "half"
    client.raise_event("order-1", "Go")
    player.complete({"done": True})
    payload = client.get("order-1").to_payload()
    assert payload["runtimeStatus"] == "Completed"
    assert payload["output"] == {"done": True}
    assert payload["input"] == {"n": 1}
    assert payload["lastUpdatedTime"].endswith("Z")


def test_an_instance_may_be_started_by_its_function(client: Client, player: Player) -> None:
    fresh = client.start(Orchestrator(FULFIL), Order("a", 2))
    assert len(fresh) == 32
    state = client.get(fresh)
    assert (state.name, state.version, state.input_as(Order)) == ("fulfil", "2", Order("a", 2))
    player.complete()


def test_an_unknown_instance_is_named(client: Client) -> None:
    for verb in (client.get, client.wait, client.history, client.suspend, client.terminate, client.restart):
        with pytest.raises(InstanceNotFoundError, match="nobody"):
            verb("nobody")
    with pytest.raises(InstanceNotFoundError, match="nobody"):
        client.raise_event("nobody", "Go")
    with pytest.raises(InstanceNotFoundError, match="nobody"):
        client.purge("nobody")


def test_nothing_is_written_when_a_start_is_refused(client: Client, store: Store) -> None:
    refused: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (InvalidArgumentError, "contains '/'", lambda: client.start("flow", instance_id="a/b")),
        (InvalidArgumentError, "cannot be written as JSON", lambda: client.start("flow", {"a": object()})),
        (PayloadTooLargeError, "over the limit of 300,000", lambda: client.start("flow", "x" * 300_000)),
        (UnknownNameError, "did you mean 'flow'", lambda: client.start("flwo")),
        (
            UnknownNameError,
            "no version '9'; known versions: '2'",
            lambda: client.start("fulfil", version="9"),
        ),
        (InvalidArgumentError, "count", lambda: client.start("fulfil", {"sku": "a", "count": "many"})),
        (InvalidArgumentError, "'fulfil': none was given", lambda: client.start("fulfil")),
        (InvalidArgumentError, "'plain': one was given", lambda: client.start("plain", 7)),
        (InvalidArgumentError, "on_conflict", lambda: client.start("flow", on_conflict=cast(Any, "replace"))),
        (InvalidArgumentError, "start_at", lambda: client.start("flow", start_at=cast(Any, "tomorrow"))),
        (InvalidArgumentError, "@orchestrator", lambda: client.start(cast(Any, fulfil))),
    ]
    for error, text, call in refused:
        with pytest.raises(error, match=text):
            call()
    assert list(store.client.scan_iter(match=f"{store.keys.hub}:inst:*")) == []


def test_an_input_may_be_asked_for_and_may_be_none(client: Client, player: Player) -> None:
    client.start("asks", 7, instance_id="a")
    assert client.get("a").input == 7
    player.complete()
    assert client.get(client.start("plain")).input is None
    player.complete()


def test_a_name_that_any_process_served_may_be_started(client: Client, store: Store, player: Player) -> None:
    with pytest.raises(UnknownNameError):
        client.start("remote")
    store.client.hset(store.keys.served, "o remote", '["", "3"]')
    client.start("remote", version="3")
    player.complete()
    with pytest.raises(UnknownNameError, match="no version '4'"):
        client.start("remote", version="4")
    assert client.served().orchestrators == {"remote": ("", "3")}


def test_what_a_second_start_of_a_running_id_does(client: Client, player: Player) -> None:
    client.start("flow", 1, instance_id="a")
    with pytest.raises(InstanceExistsError, match="a"):
        client.start("flow", 2, instance_id="a")
    assert client.start("flow", 2, instance_id="a", on_conflict="use_existing") == "a"
    assert client.get("a").input == 1
    client.start("flow", 3, instance_id="a", on_conflict="terminate_existing")
    assert client.get("a").input == 3
    player.complete()
    client.start("flow", 4, instance_id="a")
    assert (client.get("a").input, client.get("a").status) == (4, Status.PENDING)
    player.complete()


def test_under_one_idempotency_key_there_is_one_instance(client: Client, player: Player) -> None:
    first = client.start("flow", 1, idempotency_key="k")
    assert client.start("flow", 2, idempotency_key="k") == first
    assert client.get(first).input == 1
    player.complete()


def test_a_start_may_be_delayed(client: Client, player: Player) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    client.start("flow", instance_id="later", start_at=due)
    state = client.get("later")
    assert state.status is Status.PENDING
    assert state.starts_at is not None
    assert abs(state.starts_at - due) < timedelta(milliseconds=2)
    assert player.claim() == []
    client.terminate("later", "not needed")
    assert client.get("later").reason == "not needed"


def test_a_large_input_is_put_aside_and_read_back(client: Client, store: Store, player: Player) -> None:
    text = "abc" * 50_000
    client.start("flow", text, instance_id="big")
    assert client.get("big").input == text
    assert [s.input for s in client.list()] == [text]
    assert len(store.client.lrange(store.keys.inbox("big"), 0, 0)[0]) < 1000
    player.complete()
    assert client.get("big").input == text
    assert client.purge("big") == 1


def test_events_reach_the_inbox_once_per_dedup_key(client: Client, player: Player) -> None:
    client.start("flow", instance_id="a")
    player.turn()
    client.raise_event("a", "Go", {"x": 1}, dedup_key="k")
    client.raise_event("a", "Go", {"x": 2}, dedup_key="k")
    client.raise_event("a", "Stop", "x" * 200_000, dedup_key=None)
    with pytest.raises(PayloadTooLargeError, match="data of event 'Go'"):
        client.raise_event("a", "Go", "x" * 300_000)
    claimed = player.complete()
    first, second = map(decode_event, claimed.inbox)
    assert isinstance(first, EventRaised)
    assert (first.name, first.input) == ("Go", '{"x":1}')
    assert isinstance(second, EventRaised)
    assert second.input is not None
    assert second.input.startswith("@")
    with pytest.raises(InstanceEndedError):
        client.raise_event("a", "Go")
    for verb in (client.suspend, client.resume, client.cancel, client.terminate):
        with pytest.raises(InstanceEndedError):
            verb("a")


def test_suspend_resume_cancel_and_terminate(client: Client, player: Player) -> None:
    client.start("flow", instance_id="a")
    player.turn()
    assert client.suspend("a", "look first") is True
    assert client.suspend("a", "again") is False
    assert client.get("a").reason == "look first"
    claimed = player.turn(status="Suspended")
    assert [type(decode_event(c)) for c in claimed.controls] == [ExecutionSuspended]
    assert client.get("a").status is Status.SUSPENDED
    assert client.resume("a") is True
    assert client.resume("a") is False
    player.turn(status="Running")
    assert client.cancel("a", "too late") is True
    assert client.cancel("a", "much too late") is False
    assert client.get("a").reason == "too late"
    assert len(player.turn().controls) == 1
    client.terminate("a", "enough")
    state = client.wait("a", 5)
    assert (state.status, state.reason) == (Status.TERMINATED, "enough")
    with pytest.raises(OrchestrationFailedError, match="Terminated: enough"):
        state.raise_if_failed()


def test_restart_runs_the_same_input_again(client: Client, player: Player) -> None:
    client.start("flow", {"n": 1}, instance_id="a", tags={"k": "v"})
    with pytest.raises(InstanceNotEndedError):
        client.restart("a")
    player.complete(1)
    assert client.restart("a") == "a"
    state = client.get("a")
    assert (state.status, state.input, dict(state.tags)) == (Status.PENDING, {"n": 1}, {"k": "v"})
    player.fail("no")
    assert client.restart("a", "b") == "b"
    assert client.get("b").input == {"n": 1}
    player.complete()
    other = client.restart("a", True, reason="the price was wrong")
    assert other not in ("a", "b")
    assert client.get(other).reason == "the price was wrong"
    assert client.get(other).to_payload()["reason"] == "the price was wrong"
    player.complete()
    started = client.history(other)[0]
    assert isinstance(started, ExecutionStarted)
    assert started.reason == "the price was wrong"
    client.restart(other)
    assert client.get(other).reason == "", "a reason is of one restart"
    player.complete()
    failed = client.get("a")
    assert failed.failure is not None
    assert failed.failure.message == "no"


def test_history_is_whole_and_in_order(client: Client, player: Player) -> None:
    client.start("flow", instance_id="a")
    player.turn(*(CustomStatusSet(value=str(n)) for n in range(900)))
    for _ in range(2):
        client.raise_event("a", "Go")
        player.turn(*(CustomStatusSet(value=str(n)) for n in range(600)))
    client.raise_event("a", "Go")
    player.complete()
    events = client.history("a")
    assert isinstance(events[0], ExecutionStarted)
    assert isinstance(events[-1], ExecutionCompleted)
    assert len(events) == client.get("a").history_length == 1 + 900 + 2 * 601 + 2


def test_list_filters_and_pages(client: Client, player: Player) -> None:
    for n in range(25):
        client.start("flow" if n % 5 else "other", n, instance_id=f"i{n:02}", tags={"third": str(n % 3)})
        if n < 3:
            player.complete()
    assert {s.id for s in client.list(name="other")} == {"i00", "i05", "i10", "i15", "i20"}
    assert {s.id for s in client.list(status="completed")} == {"i00", "i01", "i02"}
    assert {s.id for s in client.list(status=[Status.PENDING], name="other")} == {"i05", "i10", "i15", "i20"}
    assert {s.id for s in client.list(prefix="i1")} == {f"i1{n}" for n in range(10)}
    assert {s.id for s in client.list(tag="third=1", name="other")} == {"i10"}
    assert len(client.list(created_from=datetime.now(UTC) + timedelta(minutes=1))) == 0
    assert len(client.list(created_to=datetime.now(UTC) + timedelta(minutes=1))) == 25
    seen: list[str] = []
    cursor = ""
    for _ in range(10):
        page = client.list(limit=4, cursor=cursor)
        assert len(page) <= 4
        seen += [s.id for s in page]
        cursor = page.cursor
        if not cursor:
            break
    assert sorted(seen) == [f"i{n:02}" for n in range(25)]
    assert len(list(client.iterate(name="flow"))) == 20
    for bad in ({"status": "Done"}, {"limit": 0}, {"tag": "x"}, {"created_from": "now"}):
        with pytest.raises(InvalidArgumentError):
            client.list(**cast(Any, bad))
    while player.claim():
        pass
    player.store.run(turns.hand_back(player.store.keys, "o1", 100))


def test_purge_removes_finished_instances_only(
    client: Client, player: Player, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(4):
        client.start("flow", instance_id=f"a{n}")
        player.complete()
    client.start("flow", instance_id="running")
    with pytest.raises(InstanceNotEndedError):
        client.purge("running")
    with pytest.raises(InvalidArgumentError, match="at least one condition"):
        client.purge()
    with pytest.raises(InvalidArgumentError, match="not both"):
        client.purge("a0", name="flow")
    with pytest.raises(InvalidArgumentError, match="only finished"):
        client.purge(status="Running")
    with caplog.at_level("INFO", logger="celeriac.client"):
        assert client.purge("a0", reason="asked by Ada") == 1
    assert "purged a0 (instances removed: 1): asked by Ada" in caplog.text
    with pytest.raises(InvalidArgumentError, match="a reason is a string"):
        client.purge(name="flow", reason=cast(Any, 7))
    assert client.purge(name="flow") == 3
    assert [s.id for s in client.list()] == ["running"]
    client.terminate("running")
    assert client.purge(status=["Terminated", "Completed"]) == 1
    left = {k.decode().split(":")[1] for k in store.client.scan_iter(match=f"{store.keys.hub}:*")}
    assert left <= {"beats", "heard", "wake", "served", "procs", "schema", "room"}
