"""Values as the MessagePack that Redis' cmsgpack reads.

It is the old format: there is no binary type, only raw strings, so `bytes` travel as those (Lua strings
are bytes). Structs become maps, without the fields that have their default if they say `omit_defaults`, or
arrays if array-like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

__all__ = ["joined", "pack"]

_encode = msgspec.msgpack.Encoder().encode
_AS_THEY_ARE = (bytes, msgspec.Raw)
_SIMPLE = frozenset((str, int, bool, type(None)))


def pack(value: Any) -> bytes:
    """Encode a value for an argument of type `pack`."""
    return _encode(_plain(msgspec.to_builtins(value, builtin_types=_AS_THEY_ARE)))


def joined(packed: Sequence[bytes]) -> bytes:
    """One packed list of what these packed lists of one item each hold; at most 65,535."""
    return b"\xdc" + len(packed).to_bytes(2, "big") + b"".join([one[1:] for one in packed])


def _plain(value: Any) -> Any:
    """What `to_builtins` left, with raw strings for its bytes."""
    kind = type(value)
    if kind is bytes:
        return _raw(value)
    if kind is list or kind is tuple:
        return [item if type(item) in _SIMPLE else _plain(item) for item in value]
    if kind is dict:
        return {name: item if type(item) in _SIMPLE else _plain(item) for name, item in value.items()}
    return value


def _raw(data: bytes) -> msgspec.Raw:
    size = len(data)
    if size < 32:
        head = bytes((0xA0 | size,))
    elif size < 65536:
        head = b"\xda" + size.to_bytes(2, "big")
    else:
        head = b"\xdb" + size.to_bytes(4, "big")
    return msgspec.Raw(head + data)
