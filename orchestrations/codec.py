"""Author values to JSON and back, typed by the annotations of the author's functions.

- What goes out: JSON types, dataclasses, msgspec Structs, pydantic models (recognised by their methods, never
  imported), enums, datetimes, timedeltas, Decimal, UUID, bytes, paths, sets, tuples, named tuples. Integers
  of any size are exact. NaN and infinity are refused: JSON has no word for them.
- What comes in is rebuilt from the annotation; without one (or with `Any`) it stays plain JSON values.
- A union that JSON alone cannot tell apart (`Reserved | OutOfStock`, `date | str`) is read by trying the
  members: an object must fit the fields of exactly one of them, anything else goes to the first member that
  reads it.
- Nothing is nested deeper than 64: what recursion can hold must not depend on where it is called.
- Every failure is a `CodecError` that names the place: `$.items[3].price`.

Never pickle. Encoders and decoders are made once per type; this is on the path of every activity.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import PurePath
from typing import Any

import msgspec

from ._annotations import Signature, describe_type, signature_of
from ._reading import SubPathError, reader_for, unsupported
from .errors import CodecError

__all__ = [
    "MAX_DEPTH", "decode", "decode_call", "decode_foreign", "encode", "encode_call", "input_type",
    "result_type",
]  # fmt: skip

MAX_DEPTH = 64  # lists and objects within each other

_ENCODE_ERRORS = (TypeError, ValueError, OverflowError, RecursionError, NotImplementedError, AttributeError)
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]", re.DOTALL)
_PLACE = re.compile(r" - at `(\$[^`]*)`$")


# --- writing -------------------------------------------------------------------------------------


def _foreign(value: Any) -> Any:
    """What msgspec does not know: pydantic models by their methods, and paths."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json", by_alias=True)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(unsupported(value))


_encoder = msgspec.json.Encoder(enc_hook=_foreign)
_packer = msgspec.msgpack.Encoder(enc_hook=_foreign)


def encode(value: Any, most: int = MAX_DEPTH) -> str:
    """JSON text of `value`, nested at most `most` deep; raises CodecError naming the path and the type of
    what cannot be written.
    """
    if value is None:
        return "null"
    try:
        data = _encoder.encode(value)
    except _ENCODE_ERRORS as error:
        raise _encode_error(value, error) from error
    # msgspec writes NaN and infinity as null, so only a text that holds one needs the slow look.
    if b"null" in data and _may_hold_not_finite(value):
        _refuse_not_finite(value)
    _refuse_deep(data, most)
    return data.decode()


def encode_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """JSON text `[[...],{...}]` of the arguments of a call."""
    if not args and not kwargs:
        return "[[],{}]"
    try:
        return encode((args, kwargs), MAX_DEPTH + 2)
    except CodecError as error:
        raise CodecError(_name_argument(str(error))) from error.__cause__


def _name_argument(message: str) -> str:
    """Turn the path into the pair of args and kwargs into the words of the caller."""
    match = re.match(r"\$\[(?:0\]\[(\d+)\]|1\]\.(\w+))(.*)", message, re.DOTALL)
    if match is None:
        return message
    position, keyword, rest = match.groups()
    return f"argument {keyword or int(position) + 1}: ${rest}"


def _encode_error(value: Any, error: Exception) -> CodecError:
    place, culprit = _locate(value, "$")
    if isinstance(error, RecursionError):
        return CodecError(
            f"{place}: the value is nested too deeply or contains itself; JSON cannot hold that"
        )
    try:
        _encoder.encode(culprit)
        reason = str(error)
    except _ENCODE_ERRORS as precise:
        reason = str(precise)
    if isinstance(culprit, Mapping) and (key := _bad_key(culprit)):
        reason = f"a dict key of type {key} cannot be a JSON key; use str, int, an enum, a date or a UUID"
    return CodecError(f"{place}: {reason}")


def _bad_key(mapping: Mapping[Any, Any]) -> str:
    return next((describe_type(type(key)) for key in mapping if not _writes({key: 0})), "")


def _writes(value: Any) -> bool:
    try:
        _encoder.encode(value)
    except _ENCODE_ERRORS:
        return False
    return True


def _locate(value: Any, path: str, depth: int = 64) -> tuple[str, Any]:
    """The innermost part of `value` that cannot be written, with its path. Slow; only after a failure."""
    for step, child in _children(value) if depth else ():
        if not _writes(child):
            return _locate(child, path + step, depth - 1)
    return path, value


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f".{key}" if isinstance(key, str) else f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    fields = getattr(value, "__struct_fields__", None) or getattr(value, "__dataclass_fields__", None)
    if fields is None and callable(getattr(value, "model_dump", None)):
        fields = vars(value)
    if fields is None or isinstance(value, type):
        return []
    return [(f".{name}", getattr(value, name)) for name in fields if hasattr(value, name)]


def _may_hold_not_finite(value: Any) -> bool:
    """Whether the value as MessagePack has the bytes of a NaN or an infinity; they may be part of a text."""
    try:
        return _NOT_FINITE.search(_packer.encode(value)) is not None
    except _ENCODE_ERRORS:  # an integer beyond 64 bits, which JSON can hold
        return True


def _refuse_not_finite(value: Any) -> None:
    stack: list[tuple[str, Any]] = [("$", msgspec.to_builtins(value, enc_hook=_foreign, str_keys=True))]
    while stack:
        path, part = stack.pop()
        if isinstance(part, float) and not -float("inf") < part < float("inf"):
            raise CodecError(f"{path}: {part!r} has no form in JSON; use None or a string")
        if isinstance(part, dict):
            stack.extend((f"{path}.{key}", item) for key, item in part.items())
        elif isinstance(part, list | tuple | set | frozenset):
            stack.extend((f"{path}[{index}]", item) for index, item in enumerate(part))


_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def _refuse_deep(data: bytes, most: int) -> None:
    """Raise if valid JSON is nested deeper than `most`. No recursion, and no work for what is short."""
    if data.count(b"[") + data.count(b"{") <= most:
        return
    brackets = _STRING.sub(b"", data).translate(_TO_BRACKETS, _OTHERS)
    for _ in range(most):  # each pass takes the innermost level away
        if not (brackets := brackets.replace(b"[]", b"")):
            return
    if brackets:
        raise CodecError(f"$: the value is nested too deeply: JSON may be {MAX_DEPTH} deep here")


# --- reading -------------------------------------------------------------------------------------


def decode(text: str | None, type_: Any = Any) -> Any:
    """Read JSON text as `type_`; no text at all is None. Raises CodecError naming the field."""
    if text is None:
        return None
    try:
        value = reader_for(type_).decode(text)
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _refuse_deep(text.encode(), MAX_DEPTH)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise _decode_error(error, type_) from error
    return value


def decode_foreign(text: str) -> Any:
    """Read JSON that is not ours: as `decode`, and no object may have a key twice."""
    value = decode(text)
    json.loads(text, object_pairs_hook=_unique)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise CodecError(f"$: an object has the key {key!r} twice")
        seen.add(key)


def _decode_error(error: Exception, type_: Any) -> CodecError:
    message = str(error)
    if isinstance(error, RecursionError):
        return CodecError(f"$: the value is nested too deeply: JSON may be {MAX_DEPTH} deep here")
    if not isinstance(error, msgspec.ValidationError):
        return CodecError(f"$: not valid JSON: {message}")
    match = _PLACE.search(message)
    place = match.group(1) if match else "$"
    message = message[: match.start()] if match else message
    if isinstance(error.__cause__, SubPathError):
        place, message = place + error.__cause__.place, error.__cause__.message
    return CodecError(f"{place}: {message} (read as {describe_type(type_)})")


@lru_cache(maxsize=4096)
def _plan(function: Callable[..., Any]) -> Signature:
    return signature_of(function)


_call_decoder = msgspec.json.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw]])


def decode_call(text: str, function: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, typed by the function's annotations.

    A parameter annotated with a class that has `__celeriac_injected__` is not among them. Arguments that do
    not fit the function's parameters are a CodecError too.
    """
    plan = _plan(function)
    try:
        raw_args, raw_kwargs = _call_decoder.decode(text)
    except msgspec.DecodeError as error:
        raise CodecError(f"the arguments of {plan.where} are not [[...], {{...}}]: {error}") from error
    except RecursionError as error:
        raise _decode_error(error, Any) from error
    _refuse_deep(text.encode(), MAX_DEPTH + 2)
    try:
        names, keywords = plan.match(len(raw_args), raw_kwargs)
    except TypeError as error:
        raise CodecError(f"the arguments do not fit {plan.where}{plan.shown}: {error}") from None
    args = [_argument(plan, name, raw) for name, raw in zip(names, raw_args, strict=True)]
    return args, {key: _argument(plan, name, raw_kwargs[key]) for key, name in keywords}


def _argument(plan: Signature, name: str, raw: msgspec.Raw) -> Any:
    type_ = plan.types[name]
    try:
        return reader_for(type_).decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise CodecError(f"argument '{name}' of {plan.where}: {_decode_error(error, type_)}") from error
    except CodecError as error:
        raise CodecError(f"argument '{name}' of {plan.where}: {error}") from error


def result_type(function: Callable[..., Any]) -> Any:
    """The annotated result of a function, or of the coroutine or generator it makes; else Any."""
    return _plan(_plain(function)).result


def input_type(function: Callable[..., Any]) -> Any:
    """The annotation of an orchestrator's second parameter, its input; Any when there is none."""
    plan = _plan(_plain(function))
    return plan.types[plan.positional[1]] if len(plan.positional) > 1 else Any


def _plain(function: Any) -> Callable[..., Any]:
    """The function inside a decorated object (an Activity, an Orchestrator)."""
    inner = getattr(function, "function", None)
    return inner if callable(inner) and not inspect.isroutine(function) else function
