"""Orchestrators by name and version.

`@orchestrator` makes an `Orchestrator`: still callable as the plain function, with a `.definition`, and
entered in a registry. Several versions of one name live side by side; an instance stays with the version it
began with. The same name and version from two places is a RegistrationError that names both.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ._annotations import callers_scope, describe, signature_of
from .errors import AuthoringError, RegistrationError

if TYPE_CHECKING:
    from .context import OrchestrationContext

__all__ = [
    "REGISTRY",
    "Orchestrator",
    "OrchestratorDefinition",
    "Registry",
    "check_name",
    "orchestrator",
    "version_key",
]

I = TypeVar("I")  # noqa: E741 - I for input, O for output
O = TypeVar("O")  # noqa: E741

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class OrchestratorDefinition:
    """All that running an orchestrator needs to know about it."""

    name: str
    version: str
    function: Callable[..., Any]  # (ctx) or (ctx, input); async def or generator
    input_type: Any = Any
    result_type: Any = Any
    takes_input: bool = True
    where: str = ""  # file:line


class Registry:
    """Orchestrator definitions by name and version."""

    def __init__(self) -> None:
        self._by_name: dict[str, dict[str, OrchestratorDefinition]] = {}

    def add(self, definition: OrchestratorDefinition) -> None:
        """Enter a definition. The same name and version from another place is refused; from the same place (a
        module imported again) it takes the place of the old one."""
        versions = self._by_name.setdefault(definition.name, {})
        known = versions.get(definition.version)
        if (
            known is not None
            and known.function is not definition.function
            and known.where != definition.where
        ):
            version = f" version {definition.version!r}" if definition.version else ""
            raise RegistrationError(
                f"orchestrator {definition.name!r}{version} is defined twice: {known.where} and "
                f"{definition.where}; give one of them another name or version"
            )
        versions[definition.version] = definition

    def get(self, name: str, version: str = "") -> OrchestratorDefinition | None:
        """The definition of exactly this version, or of the newest for an empty one; else None."""
        versions = self._by_name.get(name)
        if not versions:
            return None
        return versions.get(version) if version else versions[max(versions, key=version_key)]

    def exact(self, name: str, version: str) -> OrchestratorDefinition | None:
        """The definition of exactly this version, the empty one included, which a run may have begun with."""
        return self._by_name.get(name, {}).get(version)

    def names(self) -> dict[str, list[str]]:
        """Every name with its versions, oldest first."""
        return {name: sorted(versions, key=version_key) for name, versions in sorted(self._by_name.items())}


REGISTRY = Registry()
"""Where decorators enter definitions unless they are given another registry."""


def version_key(version: str) -> tuple[bool, list[tuple[int, int, str]]]:
    """Orders versions: numbers by value (1.10 is after 1.9), words before numbers (2.0rc1 is before 2.0)."""
    parts = [
        (2, int(part), "") if part.isdigit() else (0, 0, part)
        for part in re.findall(r"[0-9]+|[A-Za-z]+", version)
    ]
    return version != "", [*parts, (1, 0, version)]


def check_name(kind: str, name: str) -> str:
    """`name` if it may name an orchestrator or activity; else AuthoringError."""
    if not name or len(name) > 256 or _FORBIDDEN.search(name) or name != name.strip():
        raise AuthoringError(
            f"{name!r} cannot name an {kind}: it takes 1 to 256 characters, no control characters, "
            "no blanks at the ends"
        )
    return name


class Orchestrator(Generic[I, O]):
    """An orchestrator function and its definition. Calling it calls the plain function."""

    def __init__(self, definition: OrchestratorDefinition) -> None:
        functools.update_wrapper(self, definition.function)  # first: it copies the function's attributes
        self.definition = definition

    @property
    def name(self) -> str:
        """The registered name."""
        return self.definition.name

    @property
    def version(self) -> str:
        """The registered version, empty when there is none."""
        return self.definition.version

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function, for tests of one's own; the engine drives its result."""
        return self.definition.function(*args, **kwargs)

    def __repr__(self) -> str:
        version = f" version {self.version!r}" if self.version else ""
        return f"<orchestrator {self.name!r}{version} at {self.definition.where}>"

    def signature(self, input: I, /) -> O:
        """Only for type checkers: input and output of this orchestrator. Not to be called."""
        raise TypeError(f"{self!r} is run by client.start, ctx.call_sub_orchestrator or testing.run")


class _Decorator:
    """What `@orchestrator(...)` with options returns; typed like `@orchestrator` itself."""

    def __init__(self, name: str | None, version: str, registry: Registry, scope: dict[str, Any]) -> None:
        self._name, self._version, self._registry, self._scope = name, version, registry, scope

    @overload
    def __call__(self, fn: Callable[[OrchestrationContext], Awaitable[O]], /) -> Orchestrator[None, O]: ...
    @overload
    def __call__(self, fn: Callable[[OrchestrationContext, I], Awaitable[O]], /) -> Orchestrator[I, O]: ...
    @overload
    def __call__(
        self, fn: Callable[[OrchestrationContext], Generator[Any, Any, O]], /
    ) -> Orchestrator[None, O]: ...
    @overload
    def __call__(
        self, fn: Callable[[OrchestrationContext, I], Generator[Any, Any, O]], /
    ) -> Orchestrator[I, O]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Orchestrator[Any, Any]:
        definition = define(fn, self._name, self._version, self._scope)
        self._registry.add(definition)
        return Orchestrator(definition)


@overload
def orchestrator(fn: Callable[[OrchestrationContext], Awaitable[O]], /) -> Orchestrator[None, O]: ...
@overload
def orchestrator(fn: Callable[[OrchestrationContext, I], Awaitable[O]], /) -> Orchestrator[I, O]: ...
@overload
def orchestrator(
    fn: Callable[[OrchestrationContext], Generator[Any, Any, O]], /
) -> Orchestrator[None, O]: ...
@overload
def orchestrator(
    fn: Callable[[OrchestrationContext, I], Generator[Any, Any, O]], /
) -> Orchestrator[I, O]: ...
@overload
def orchestrator(
    *, name: str | None = None, version: str = "", registry: Registry | None = None
) -> _Decorator: ...
def orchestrator(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "",
    registry: Registry | None = None,
) -> Any:
    """Declare an orchestrator: `@orchestrator` or `@orchestrator(name=..., version=...)`.

    The function is an `async def` that awaits tasks or a generator that yields them, with the parameters
    `(ctx)` or `(ctx, input)`. Its name is the function's own unless given.
    """
    scope = callers_scope(sys._getframe(1))
    decorator = _Decorator(name, version, REGISTRY if registry is None else registry, scope)
    return decorator if fn is None else decorator(fn)


def define(
    fn: Callable[..., Any], name: str | None = None, version: str = "", scope: dict[str, Any] | None = None
) -> OrchestratorDefinition:
    """The definition of an orchestrator function, unregistered; AuthoringError when it cannot be one."""
    where = location(fn)
    plain = inspect.unwrap(fn)
    if not (inspect.iscoroutinefunction(plain) or inspect.isgeneratorfunction(plain)):
        raise AuthoringError(
            f"{describe(fn)} ({where}) cannot be an orchestrator: write it as `async def` and await tasks, "
            "or as a generator that yields them"
        )
    if _FORBIDDEN.search(version) or len(version) > 64:
        raise AuthoringError(f"{version!r} cannot be a version: at most 64 characters, no control characters")
    signature = signature_of(fn, scope)
    if not 1 <= len(signature.positional) <= 2 or set(signature.required) - set(signature.positional):
        raise AuthoringError(
            f"{describe(fn)}{signature.shown} ({where}) cannot be an orchestrator: its parameters are (ctx) "
            "or (ctx, input); put several inputs into one dataclass"
        )
    takes_input = len(signature.positional) == 2
    return OrchestratorDefinition(
        name=check_name("orchestrator", fn.__name__ if name is None else name),
        version=version,
        function=fn,
        input_type=signature.types[signature.positional[1]] if takes_input else Any,
        result_type=signature.result,
        takes_input=takes_input,
        where=where,
    )


def location(fn: Callable[..., Any]) -> str:
    """Where a function is defined, as file:line."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else describe(fn)
