"""Readers of JSON for one type each: msgspec's decoder, with our rules for pydantic models, paths and unions.

msgspec refuses unions whose members JSON cannot tell apart. Such a union, anywhere in an annotation but
inside the fields of a class, is replaced by a marker class that msgspec hands to us; `_Choice.choose` then
tries the members.
"""

from __future__ import annotations

import inspect
import typing
from functools import lru_cache
from pathlib import PurePath
from types import UnionType
from typing import Any, ClassVar, Protocol, Union, cast

import msgspec

from ._annotations import Unresolved, describe_type
from .errors import CodecError


class Reader(Protocol):
    """Reads JSON text as one type; raises msgspec.DecodeError or its subclass ValidationError."""

    def decode(self, text: Any, /) -> Any:
        """The value in `text`."""
        ...


class SubPathError(ValueError):
    """Where inside a foreign value (a pydantic model, a member of a union) reading failed."""

    def __init__(self, place: str, message: str) -> None:
        self.place, self.message = place, message
        super().__init__(f"{place}: {message}")


def unsupported(value: Any) -> str:
    """Why a value cannot be written, and what to do instead."""
    kind = describe_type(type(value))
    if inspect.isawaitable(value):
        return f"a value of type {kind} must be awaited (or yielded) first"
    if isinstance(value, BaseException):
        return f"an exception ({kind}) is not a value; raise it, or return a dataclass that tells of it"
    return f"a value of type {kind} has no form in JSON; use a dataclass, a Struct or a pydantic model"


class _AnyInstance(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return True  # msgspec asks whether what we have read is a `_Choice`


class _Choice(metaclass=_AnyInstance):
    """The marker for one union that msgspec refuses; `members` are tried by `choose`."""

    members: ClassVar[tuple[Any, ...]] = ()

    @classmethod
    def choose(cls, value: Any) -> Any:
        """Read plain JSON values as one of the members."""
        text = msgspec.json.encode(value)
        keys = value.keys() if isinstance(value, dict) else None
        good: list[Any] = []
        bad: list[str] = []
        for member in cls.members:
            if keys is not None and not _fits(member, keys):
                bad.append(f"{describe_type(member)} has other fields")
                continue
            try:
                good.append(reader_for(member).decode(text))
            except msgspec.ValidationError as error:
                bad.append(f"{describe_type(member)}: {error}")
                continue
            if keys is None:
                return good[0]
        if len(good) == 1:
            return good[0]
        if good:
            names = " and ".join(describe_type(type(each)) for each in good)
            raise SubPathError(
                "", f"fits {names} alike; give them different fields, or make them tagged Structs"
            )
        raise SubPathError("", f"fits no member of the union: {'; '.join(bad)}")


def _fits(member: Any, keys: Any) -> bool:
    """Whether an object with these keys may be a `member`: it has no other field and misses none without
    default.
    """
    fields = _fields(member)
    if fields is None:
        return True
    known, required = fields
    return required <= keys <= known


def _fields(member: Any) -> tuple[set[str], set[str]] | None:
    models = getattr(member, "model_fields", None)
    if isinstance(models, dict):
        names = {name: getattr(f, "alias", None) or name for name, f in models.items()}
        return set(names.values()), {names[name] for name, f in models.items() if f.is_required()}
    try:
        info = msgspec.inspect.type_info(member)
    except TypeError:
        return None
    if not isinstance(
        info, msgspec.inspect.StructType | msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType
    ):
        return None
    known = {f.encode_name for f in info.fields}
    required = {f.encode_name for f in info.fields if f.required}
    if isinstance(info, msgspec.inspect.StructType) and info.tag_field is not None:
        known.add(info.tag_field)
        required.add(info.tag_field)
    return known, required


def _read_foreign(type_: type, value: Any) -> Any:
    """What msgspec does not know: our unions, pydantic models, paths, `object`."""
    if type_ is object:
        return value
    if issubclass(type_, _Choice):
        return type_.choose(value)
    if issubclass(type_, PurePath):
        return type_(value)
    validate = getattr(type_, "model_validate_json", None)
    if not callable(validate):
        raise SubPathError(
            "", f"{describe_type(type_)} cannot be read from JSON; use a dataclass or a pydantic model"
        )
    try:
        # By way of text: in pydantic's strict mode only JSON input may hold a date as a string.
        return validate(msgspec.json.encode(value))
    except ValueError as error:
        raise _pydantic_error(error) from error


def _pydantic_error(error: ValueError) -> SubPathError:
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return SubPathError("", str(error))
    first = cast("list[dict[str, Any]]", errors())[0]
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first.get("loc", ()))
    return SubPathError(place, str(first.get("msg", error)))


def reader_for(type_: Any) -> Reader:
    """The reader of a type, made once; CodecError when values of the type cannot be read from JSON at all."""
    if isinstance(type_, Unresolved):
        type_ = type_.resolve()
    try:
        return _cached(type_)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _make(type_)


@lru_cache(maxsize=4096)
def _cached(type_: Any) -> Reader:
    return _make(type_)


def _make(type_: Any) -> Reader:
    try:
        return msgspec.json.Decoder(type_, dec_hook=_read_foreign)
    except (TypeError, NameError) as first:
        try:
            return msgspec.json.Decoder(_rewrite(type_), dec_hook=_read_foreign)
        except (TypeError, NameError):
            raise CodecError(
                f"$: {describe_type(type_)} cannot be read from JSON: {first}. Inside the fields of a class, "
                "tell the members of a union apart with msgspec Structs that have tag=True"
            ) from first


def _rewrite(type_: Any) -> Any:
    """The same annotation, with each union that msgspec refuses replaced by a marker."""
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin in (Union, UnionType):
        return type_ if _accepted(type_) else _marked(args)
    if origin is None or origin is typing.Literal or not args:
        return type_
    if origin is typing.Annotated:
        return _rewrite(args[0])
    new = tuple(each if each is Ellipsis else _rewrite(each) for each in args)
    return type_ if new == args else origin[new]


def _marked(members: tuple[Any, ...]) -> Any:
    """What stands for a refused union; None stays beside it, because msgspec does not ask us about null."""
    rest = tuple(member for member in members if member is not type(None))
    marker = _rewrite(rest[0]) if len(rest) == 1 else _AnyInstance("Choice", (_Choice,), {"members": rest})
    return Union[marker, None] if len(rest) < len(members) else marker  # noqa: UP007 - built at run time


def _accepted(type_: Any) -> bool:
    try:
        msgspec.json.Decoder(type_, dec_hook=_read_foreign)
    except (TypeError, NameError):
        return False
    return True
