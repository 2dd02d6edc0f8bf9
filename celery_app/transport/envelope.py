"""Reads what lies in a Celery queue on Redis: the envelope, and the time before which it must not run.

A message that a stock consumer would choke on (and, by kombu 5.7's code, lose, or crash every worker
with) is refused here with a `ValueError` that says why; the transport then sets it aside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from kombu.transport import virtual
from kombu.utils.json import loads

from ..messages import STEP_HEADER

__all__ = ["STEP_MARK", "Message", "due_time", "read"]

STEP_MARK = f'"{STEP_HEADER}":'.encode()  # by which the take knows the engine's messages

_fast = msgspec.json.Decoder().decode


class Message(virtual.Message):
    """kombu's message. The body of one of the engine's is decoded by the quicker decoder."""

    def _decode(self) -> Any:
        ours = STEP_HEADER in self.headers and self.content_type == "application/json"
        if ours and self.body and self.accept and self.content_type in self.accept:
            try:
                return _fast(self.body)
            except (ValueError, RecursionError):  # kombu says what is wrong with it
                return super()._decode()
        return super()._decode()


def read(raw: bytes, verify: Callable[[bytes], str] | None = None) -> dict[str, Any]:
    """The envelope as kombu would decode it. `verify` tells what is wrong with one of the engine's."""
    # kombu's decoder makes other types of objects with "__type__"; without any, the fast one gives the same.
    try:
        envelope = loads(raw) if b'"__type__"' in raw else _fast(raw)
    except msgspec.DecodeError:
        envelope = loads(raw)  # NaN and Infinity, which kombu writes and JSON does not know
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _check(envelope)
    if STEP_HEADER in (envelope.get("headers") or ()):
        if STEP_MARK not in raw:
            raise ValueError("it is forged: it hid from the take that it is of a step")
        if verify is not None and (problem := verify(raw)):
            raise ValueError(problem)
    return envelope


def _check(envelope: Any) -> None:
    if not isinstance(envelope, dict):
        raise ValueError(f"not a JSON object but {type(envelope).__name__}")
    properties, headers = envelope.get("properties"), envelope.get("headers") or {}
    if not isinstance(properties, dict) or "delivery_tag" not in properties:
        raise ValueError("no properties.delivery_tag")
    info = properties.get("delivery_info")
    if not isinstance(info, dict) or not {"exchange", "routing_key"} <= info.keys():
        raise ValueError("no properties.delivery_info with exchange and routing_key")
    if not isinstance(headers, dict):
        raise ValueError("headers is not an object")
    if "task" in headers:
        if not isinstance(headers.get("id"), str):
            raise ValueError("headers.id is missing")
        if not envelope.get("content-type"):
            raise ValueError("content-type is missing")


def due_time(envelope: Mapping[str, Any]) -> float:
    """The `eta` of a task message as a Unix time; 0.0 for none, or one that Celery itself has to refuse."""
    headers = envelope.get("headers") or {}
    eta = headers.get("eta") if "task" in headers else None
    if not isinstance(eta, str):
        return 0.0
    try:
        when = datetime.fromisoformat(eta)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
