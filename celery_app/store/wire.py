"""Values as the MessagePack that Redis' cmsgpack reads.

It is the old format: there is no binary type, only raw strings, so `bytes` travel as those (Lua strings
are bytes). Structs become maps without the fields that have their default, or arrays if array-like.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

__all__ = ["joined", "pack"]

_encode = msgspec.msgpack.Encoder().encode


def pack(value: Any) -> bytes:
    """Encode a value for an argument of type `pack`."""
    return _encode(_plain(value))


def joined(packed: Sequence[bytes]) -> bytes:
    """One packed list of what these packed lists of one item each hold; at most 65,535."""
    return b"\xdc" + len(packed).to_bytes(2, "big") + b"".join([one[1:] for one in packed])


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is bytes:
        return _raw(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is list or kind is tuple:
        return [_plain(item) for item in value]
    if kind is dict:
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, msgspec.Struct):
        return _struct(value)
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


def _struct(value: msgspec.Struct) -> Any:
    fields, array_like = _shape(type(value))
    if array_like:
        return [_plain(getattr(value, name)) for name, _ in fields]
    out: dict[str, Any] = {}
    for name, default in fields:
        item = getattr(value, name)
        if item != default:
            out[name] = _plain(item)
    return out


@cache
def _shape(cls: type[msgspec.Struct]) -> tuple[tuple[tuple[str, Any], ...], bool]:
    """The fields of a struct with their defaults (NODEFAULT equals nothing), and whether it is an array."""
    fields = []
    for field in msgspec.structs.fields(cls):
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        fields.append((field.encode_name, default))
    return tuple(fields), cls.__struct_config__.array_like
