"""The bytes of an activity message are those that Celery itself would have pushed."""

from __future__ import annotations

import json
import random
import secrets
import socket
import time
from typing import Any

import msgspec
import pytest
import redis
from celery import Celery, signals

from celeriac.celery_app.emission import (
    ARGS_REPR,
    HARD_LIMIT_GRACE,
    KWARGS_REPR,
    EmissionError,
    Emitter,
    chord_signature,
)
from celeriac.celery_app.messages import (
    STEP_HEADER,
    STEP_META_HEADER,
    GroupRef,
    Notes,
    StepHeader,
    TaskId,
    read_header,
)
from celeriac.celery_app.settings import Settings
from celeriac.orchestrations.history import ActivityOptions

NAMES = ("shop.ship", "größe", 'quo"ted', "a" * 200)
EXECUTION = "0123456789abcdef"


def make_app(url: str, **options: Any) -> Celery:
    app = Celery("golden", broker=url, set_as_current=False)
    app.conf.update(task_serializer="json", accept_content=["json"], broker_transport_options=options)
    return app


def value(rng: random.Random, depth: int = 0) -> Any:
    """Anything JSON can hold, with what has bitten brokers before."""
    leaves: list[Any] = [
        None, True, -1, 2**53, 1.5e-300, "", 'say "hi"\\\n\x00\x1f', "\u2028 \U0001f600 ü",
        "x" * rng.randrange(300),
        {"__type__": "datetime", "__value__": "2026-01-01"}, {"__type__": "bytes", "__value__": "AAAA"},
        '"celeriac-step": "0:0:0"', "@@celeriac-id@@",
    ]  # fmt: skip
    if depth > 2 or rng.random() < 0.4:
        return rng.choice(leaves)
    if rng.random() < 0.5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {
        rng.choice(("a", "__type__", "ключ", '"')): value(rng, depth + 1) for _ in range(rng.randrange(4))
    }


def arguments(rng: random.Random, call: str) -> dict[str, Any]:
    group = rng.random() < 0.3
    seq, attempt = rng.randrange(10_000), rng.randrange(1, 50)
    options = ActivityOptions(
        retry=rng.choice(("", '{"first":1000,"max":3}')),
        queue=rng.choice(("", "mail", "größe")),
        priority=rng.randrange(10),
        timeout=rng.choice((0, 0, 1500, 60_000)),
        heartbeat=rng.choice((0, 5000)),
        tags=rng.choice(({}, {"k": 'v"'})),
    )
    task = TaskId(EXECUTION, seq, attempt, rng.choice(("order-1", "a:b:c", 'ün"ï', "-")))
    return {
        "name": rng.choice(NAMES),
        "task_id": str(task),
        "step": task.step,
        "call": call,
        "options": options,
        "first_at": rng.randrange(2**41),
        "group": GroupRef(f"{EXECUTION}:{seq - 1}", 1, 7) if group else None,
        "notes": rng.choice((Notes(), Notes(lost=2, spared=3))),
    }


def by_celery(app: Celery, message: dict[str, Any]) -> None:
    """What the emitter promises to equal: `send_task`, which `apply_async` ends in."""
    options, group = message["options"], message["group"]
    header = StepHeader(options, message["first_at"], group.size if group else 0, message["notes"])
    limits = {}
    if options.timeout:
        limits["soft_time_limit"] = options.timeout / 1000
        limits["time_limit"] = options.timeout / 1000 + HARD_LIMIT_GRACE
    if group:
        limits |= {"group_id": group.id, "group_index": group.index, "chord": chord_signature(group.id)}
    app.send_task(
        message["name"],
        (message["call"],),
        {},
        task_id=message["task_id"],
        queue=options.queue or "celeriac",
        priority=options.priority,
        ignore_result=True,
        argsrepr=ARGS_REPR,
        kwargsrepr=KWARGS_REPR,
        headers={STEP_HEADER: message["step"], STEP_META_HEADER: msgspec.json.encode(header).decode()},
        **limits,
    )


def comparable(text: bytes) -> bytes:
    """Without delivery tag and origin; nor the fixed reprs, which send_task leaks into the properties."""
    message = json.loads(text)
    head, properties, rest = text.partition(b'"properties": {')
    leaked = f'"argsrepr": "{ARGS_REPR}", "kwargsrepr": "{KWARGS_REPR}", '.encode()
    text = head + properties + rest.replace(leaked, b"", 1)
    for part, name in (("properties", "delivery_tag"), ("headers", "origin")):
        text = text.replace(json.dumps(message[part][name]).encode(), b'"-"', 1)
    return text


@pytest.mark.parametrize("prefix", ["", "pre:"])
def test_golden_bytes_for_a_thousand_random_messages(redis_server: Any, prefix: str) -> None:
    url = f"redis+socket://{redis_server.url.removeprefix('unix://')}?virtual_host=9"
    options = {"global_keyprefix": prefix, "priority_steps": [0, 4, 8]} if prefix else {}
    app = make_app(url, **options)
    emitter = Emitter(app, Settings())
    client = redis.Redis(unix_socket_path=redis_server.url.removeprefix("unix://"), db=9)
    rng = random.Random(7)
    calls = [json.dumps([[value(rng)], {"k": value(rng)}], ensure_ascii=False) for _ in range(500)]
    for call in [*calls, json.dumps([['"' * 1_000_000], {}])]:
        message = arguments(rng, call)
        client.flushdb()
        by_celery(app, message)
        keys = [key for key in client.scan_iter() if client.type(key) == b"list"]
        assert len(keys) == 1
        wanted: Any = client.lrange(keys[0], 0, -1)[0]
        key, text = emitter.activity_message(**message)
        assert key.encode() == keys[0]
        assert comparable(text) == comparable(wanted)
    client.flushdb()
    client.close()
    app.close()


def test_each_message_has_its_own_delivery_tag() -> None:
    emitter = Emitter(make_app("redis://localhost:1/0"), Settings())
    texts = [emitter.activity_message("a", "i", "s", "[[],{}]", ActivityOptions(), 1)[1] for _ in range(1000)]
    assert len({json.loads(text)["properties"]["delivery_tag"] for text in texts}) == 1000


def test_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("emission opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    emitter = Emitter(make_app("redis://localhost:1/0"), Settings(queue="mine"))
    key, _ = emitter.activity_message("a", "i", "s", "[[],{}]", ActivityOptions(priority=7), 1)
    assert key == "mine\x06\x166"


def test_what_a_worker_needs_comes_back_from_the_headers() -> None:
    emitter = Emitter(make_app("redis://localhost:1/0"), Settings())
    options = ActivityOptions(retry='{"first":5}', timeout=1000, tags={"a": "b"})
    _, text = emitter.activity_message("a", "i", "0a:1:2", "[[],{}]", options, 99, GroupRef("0a:1", 4, 9))
    headers = json.loads(text)["headers"]
    assert read_header(headers[STEP_META_HEADER]) == StepHeader(options, 99, 9)
    assert headers[STEP_HEADER] == "0a:1:2"
    assert (headers["group"], headers["group_index"]) == ("0a:1", 4)


def test_a_receiver_that_changes_messages_is_refused_by_name() -> None:
    def meddle(headers: dict[str, Any], **_: Any) -> None:
        headers["id"] = "other"

    signals.before_task_publish.connect(meddle)
    try:
        with pytest.raises(EmissionError, match="before_task_publish"):
            Emitter(make_app("redis://localhost:1/0"), Settings()).activity_message(
                "a", "i", "s", "[[],{}]", ActivityOptions(), 1
            )
    finally:
        signals.before_task_publish.disconnect(meddle)


def test_another_broker_than_redis_is_refused() -> None:
    with pytest.raises(EmissionError, match="not a Redis"):
        Emitter(make_app("memory://"), Settings()).activity_message(
            "a", "i", "s", "[[],{}]", ActivityOptions(), 1
        )


def test_a_message_costs_less_than_40_microseconds() -> None:
    emitter = Emitter(make_app("redis://localhost:1/0"), Settings())
    options = ActivityOptions(retry='{"first":5}', timeout=1000)
    call = json.dumps([[secrets.token_hex(50)], {}])

    def batch() -> float:
        began = time.process_time()
        for i in range(2000):
            emitter.activity_message(
                "a", f"0a:{i}:1:x", f"0a:{i}:1", call, options, 99, GroupRef("0a:1", i, 9)
            )
        return (time.process_time() - began) / 2000

    assert min(batch() for _ in range(3)) < 40e-6


@pytest.mark.parametrize(
    "text", ["", "x", "0123456789abcde:1:1:a", f"{EXECUTION}:1:1:", f"{EXECUTION}:-1:1:a"]
)
def test_ids_of_others_are_no_task_ids(text: str) -> None:
    assert TaskId.parse(text) is None


def test_a_task_id_may_hold_an_instance_with_colons() -> None:
    task = TaskId.parse(f"{EXECUTION}:12:3:parent:0004.2\n")
    assert task == TaskId(EXECUTION, 12, 3, "parent:0004.2\n")
    assert str(task) == f"{EXECUTION}:12:3:parent:0004.2\n"
