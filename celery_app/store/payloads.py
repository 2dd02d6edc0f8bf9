"""Payloads put aside, and the outcomes of group parts: both in the payload hash of an execution.

A blob is the JSON text, zlib-compressed when that makes it smaller; its first byte says which.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from celeriac.orchestrations.errors import PayloadTooLargeError
from celeriac.orchestrations.history import PartOutcome

from .errors import GoneError
from .keys import Keys
from .scripts import Call, command, script

__all__ = ["fetch", "group_outcomes", "pack", "stage", "unpack"]

UNPACKED_MOST = 256 * 2**20  # a blob that unpacks to more was not written by us

_outcome_decoder = msgspec.json.Decoder(PartOutcome)


def pack(text: str) -> bytes:
    """The blob for a JSON text."""
    raw = text.encode()
    small = zlib.compress(raw, 3)
    return b"z" + small if len(small) < len(raw) else b"=" + raw


def unpack(blob: bytes) -> str:
    """The JSON text of a blob."""
    if blob[:1] == b"=":
        return blob[1:].decode()
    engine = zlib.decompressobj()
    raw = engine.decompress(blob[1:], UNPACKED_MOST)
    if engine.unconsumed_tail:
        raise PayloadTooLargeError(f"a stored payload unpacks to more than {UNPACKED_MOST} bytes")
    return raw.decode()


def stage(
    keys: Keys, instance: str, execution: str, claim: str, fields: Sequence[tuple[str, bytes]],
    part: int = 1, *, last: bool = True,
) -> Call[int]:  # fmt: skip
    """Put blobs aside for a run that goes on (GoneError if not) and is held by this claim (FencedError if
    not); its commit, which refers to them, follows. `part`: the number of this call among those for one
    commit, from 1. FencedError too when those before it are not there.
    """
    return script("stage").call(
        keys, instance=instance, execution=execution, claim=claim, part=part, last=last,
        payloads=list(fields), decode=int, idempotent=True,
    )  # fmt: skip


def fetch(keys: Keys, execution: str, fields: Sequence[str]) -> Call[list[bytes]]:
    """The blobs of these fields, in order; GoneError if one is not there."""

    def decode(reply: Any) -> list[bytes]:
        for field, blob in zip(fields, reply, strict=True):
            if blob is None:
                raise GoneError(
                    f"payload {field} of execution {execution} is gone: the run was purged or replaced"
                )
        return reply

    return command("HMGET", keys.pay(execution), *fields, decode=decode)


def group_outcomes(keys: Keys, execution: str, seq: int, start: int, stop: int) -> Call[list[PartOutcome]]:
    """How the parts `start` to `stop` (exclusive) of a completed group ended, in index order."""

    def decode(reply: Any) -> list[PartOutcome]:
        if None in reply:
            raise GoneError(
                f"part {start + reply.index(None)} of group {seq} of execution {execution} has no outcome"
            )
        return [_outcome_decoder.decode(memoryview(text)[1:]) for text in reply]

    return command("HMGET", keys.pay(execution), *(f"g{seq}:{n}" for n in range(start, stop)), decode=decode)
