"""What the transport does not do twice: decode a body the slow way, add a reader that the loop has."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.asynchronous.hub import Hub
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.utils.eventio import READ

from celeriac.celery_app.messages import STEP_HEADER
from celeriac.celery_app.transport.envelope import Message
from celeriac.celery_app.transport.redis import Poller, _Sparing

DECODING = SimpleNamespace(decode_body=lambda body, encoding: base64.b64decode(body), no_ack_consumers=None)


def message(body: bytes, *, step: bool = True, kind: str = "application/json") -> Message:
    """One of ours, or somebody else's, accepted as JSON only."""
    made = Message(
        {
            "body": base64.b64encode(body).decode(),
            "properties": {"delivery_tag": "1", "body_encoding": "base64", "delivery_info": {}},
            "headers": {STEP_HEADER: "e:1:1"} if step else {},
            "content-type": kind,
            "content-encoding": "utf-8",
        },
        channel=DECODING,
    )
    made.accept = {"application/json"}
    return made


@pytest.mark.parametrize("step", [True, False])
@pytest.mark.parametrize("value", [[['[[1.5, "ä"],{}]'], {}, {"chain": None}], 10**30, [1e300, -0.0, True]])
def test_a_body_is_what_kombu_makes_of_it(value: Any, step: bool) -> None:
    assert message(json.dumps(value).encode(), step=step).payload == value


def test_a_body_that_only_kombu_reads_is_read() -> None:
    assert message(b'[Infinity, "\\ud800"]').payload == [float("inf"), "\ud800"]


@pytest.mark.parametrize("body", [b"[1", b"\xff", b"[" * 100_000])
def test_a_body_that_cannot_be_read_fails_as_with_kombu(body: bytes) -> None:
    with pytest.raises(DecodeError):
        _ = message(body).payload


def test_what_is_not_accepted_is_refused() -> None:
    with pytest.raises(ContentDisallowed):
        _ = message(b"[]", kind="application/x-python-serialize").payload
    refusing = message(b"[1]")
    refusing.accept = {"application/x-yaml"}
    with pytest.raises(ContentDisallowed):
        _ = refusing.payload


@pytest.fixture
def pipe() -> Iterator[int]:
    """A descriptor that can be read."""
    reading, writing = os.pipe()
    os.write(writing, b"x")
    yield reading
    os.close(reading)
    os.close(writing)


def test_a_reader_is_added_again_only_when_the_loop_has_lost_it(pipe: int) -> None:
    hub, poller, asked = Hub(), Poller(), []
    epoll: Any = hub.poller
    real = hub.add_reader
    hub.add_reader = lambda *words: asked.append(words) or real(*words)  # type: ignore[method-assign] # counts
    loop = _Sparing(hub, poller)

    def heard(fd: int) -> None: ...
    def other(fd: int) -> None: ...

    def ready() -> bool:
        return (pipe, READ) in (epoll.poll(0) or [])

    try:
        loop.add_reader(pipe, heard, pipe)
        loop.add_reader(pipe, heard, pipe)
        assert len(asked) == 1
        assert ready()
        hub.remove_reader(pipe)
        assert not ready()
        loop.add_reader(pipe, heard, pipe)
        assert len(asked) == 2
        assert ready()
        loop.add_reader(pipe, other, pipe)  # the number was another socket's meanwhile
        assert hub.readers[pipe] == (other, (pipe,))
        epoll.unregister(pipe)  # and if the kernel forgot it: within a second
        poller.maintain()
        loop.add_reader(pipe, other, pipe)
        assert ready()
    finally:
        hub.close()
