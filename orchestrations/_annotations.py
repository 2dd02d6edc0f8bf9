"""What a function's annotations say about its parameters and its result.

Annotations are resolved one by one: an unknown name in one (say, an import under TYPE_CHECKING) does not
spoil the others. What cannot be resolved yet becomes `Unresolved`, which is tried again when a value must
be read.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType, SimpleNamespace
from typing import Any, TypeVar

from .errors import CodecError

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An annotation that named something unknown when it was read; `resolve` tries again."""

    function: Callable[..., Any]
    parameter: str  # "return" for the result

    def resolve(self) -> Any:
        """The type; raises CodecError that names the annotation and the function."""
        found = annotation(self.function, self.parameter)
        if isinstance(found, Unresolved):
            raw = inspect.unwrap(self.function).__annotations__.get(self.parameter)
            raise CodecError(
                f"the annotation {raw!r} of '{self.parameter}' in {describe(self.function)} names nothing "
                "that its module knows; define it at module level (not only under TYPE_CHECKING)"
            )
        return unwrap_result(found) if self.parameter == "return" else found


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters a caller sees, their types, and the type of the result."""

    where: str
    shown: str
    positional: tuple[str, ...]
    positional_only: frozenset[str]
    keyword_only: frozenset[str]
    required: tuple[str, ...]
    types: dict[str, Any]
    var_positional: str
    var_keyword: str
    injected: str
    result: Any

    def match(self, count: int, keywords: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
        """Which parameter each argument belongs to; TypeError when they do not fit."""
        names = list(self.positional[:count])
        if count > len(names):
            if not self.var_positional:
                raise TypeError(f"{count} positional arguments given, it takes {len(names)}")
            names += [self.var_positional] * (count - len(names))
        pairs = [(key, self._keyword(key, names)) for key in keywords]
        given = {*names, *(parameter for _, parameter in pairs)}
        if missing := [name for name in self.required if name not in given]:
            raise TypeError(f"missing {', '.join(map(repr, missing))}")
        return names, pairs

    def _keyword(self, key: str, names: list[str]) -> str:
        """The parameter that a keyword argument belongs to."""
        if key in self.keyword_only or (key in self.positional and key not in self.positional_only):
            if key in names:
                raise TypeError(f"'{key}' is given twice")
            return key
        if not self.var_keyword:
            raise TypeError(f"it has no parameter '{key}'")
        return self.var_keyword


def signature_of(function: Callable[..., Any], scope: Mapping[str, Any] | None = None) -> Signature:
    """Read a function once. A parameter whose annotation has `__celeriac_injected__` is left out."""
    parameters = list(inspect.signature(function).parameters.values())
    types = {p.name: annotation(function, p.name, scope) for p in parameters}
    injected = next((n for n, t in types.items() if getattr(t, "__celeriac_injected__", False)), "")
    seen = [p for p in parameters if p.name != injected]
    plain = [p for p in seen if p.kind not in _VARIADIC]
    return Signature(
        where=describe(function),
        shown=str(inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in seen])),
        positional=tuple(p.name for p in plain if p.kind is not p.KEYWORD_ONLY),
        positional_only=frozenset(p.name for p in plain if p.kind is p.POSITIONAL_ONLY),
        keyword_only=frozenset(p.name for p in plain if p.kind is p.KEYWORD_ONLY),
        required=tuple(p.name for p in plain if p.default is p.empty),
        types=types,
        var_positional=next((p.name for p in seen if p.kind is p.VAR_POSITIONAL), ""),
        var_keyword=next((p.name for p in seen if p.kind is p.VAR_KEYWORD), ""),
        injected=injected,
        result=unwrap_result(annotation(function, "return", scope)),
    )


def annotation(function: Callable[..., Any], name: str, scope: Mapping[str, Any] | None = None) -> Any:
    """One annotation as a type: Any when absent, `Unresolved` when it names something unknown."""
    inner = inspect.unwrap(function)
    raw = getattr(inner, "__annotations__", {}).get(name, inspect.Parameter.empty)
    if raw is inspect.Parameter.empty:
        return Any
    try:
        holder = SimpleNamespace(__annotations__={name: raw})
        hints = typing.get_type_hints(
            holder,
            globalns=getattr(inner, "__globals__", {}),
            localns=_scope(inner, scope),
            include_extras=True,
        )
    except (NameError, AttributeError, TypeError, SyntaxError):
        return Unresolved(function, name)
    return hints[name]


def _scope(function: Callable[..., Any], scope: Mapping[str, Any] | None) -> dict[str, Any]:
    """Names that an annotation may use besides the module's: the enclosing function's, as far as we can
    see.
    """
    names = dict(scope or {})
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars if code else (), cells, strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return names


def callers_scope(frame: FrameType | None) -> dict[str, Any]:
    """The local names around a decorator, so that types defined inside a function can be resolved."""
    return dict(frame.f_locals) if frame is not None and frame.f_code.co_name != "<module>" else {}


def unwrap_result(type_: Any) -> Any:
    """`R` of `Awaitable[R]`, `Coroutine[_, _, R]` or `Generator[_, _, R]`; anything else as it is."""
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin in (Coroutine, Generator) and len(args) == 3:
        return args[2]
    if origin is Awaitable and len(args) == 1:
        return args[0]
    if origin is AsyncGenerator or type_ in (typing.NoReturn, typing.Never) or isinstance(type_, TypeVar):
        return Any
    return type_


def describe(function: Callable[..., Any]) -> str:
    """A function by its module and name."""
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


def describe_type(type_: Any) -> str:
    """A type as an author writes it."""
    if isinstance(type_, type) and not typing.get_args(type_):
        return (
            type_.__name__ if type_.__module__ == "builtins" else f"{type_.__module__}.{type_.__qualname__}"
        )
    return str(type_).replace("typing.", "")
