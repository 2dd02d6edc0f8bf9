"""Does an input fit an orchestrator? Asked by clients before a start and by the engine when a run begins.

None and an input that was left out are the same. The parameter's default then counts; without one the
annotated type must accept None (`Order | None`, `Any`, no annotation).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from types import CodeType
from typing import Any

from . import codec
from .errors import CodecError
from .registry import OrchestratorDefinition

__all__ = ["has_default", "read_input"]


def read_input(definition: OrchestratorDefinition, text: str | None) -> Any:
    """The input as the function's annotated type; CodecError that says what is wrong with it."""
    function = definition.function
    if text is None:
        if definition.takes_input and not has_default(function):
            _check_none(definition)
        return None
    if not definition.takes_input and text != "null" and not _asks_for_input(function):
        raise CodecError(
            "one was given, and its function takes none: it has no parameter beside ctx, and does not call "
            "ctx.get_input()"
        )
    return codec.decode(text, definition.input_type)


@lru_cache(maxsize=4096)
def has_default(function: Callable[..., Any]) -> bool:
    """Does the input parameter have a default, to be used when no input was given?"""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    return len(parameters) > 1 and parameters[1].default is not inspect.Parameter.empty


def _check_none(definition: OrchestratorDefinition) -> None:
    try:
        codec.decode("null", definition.input_type)
    except CodecError as error:
        raise CodecError(
            f"none was given, and an input is needed ({_type_name(definition.input_type)}). "
            "Give one, or give the function's parameter a default or a type that accepts None"
        ) from error


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


@lru_cache(maxsize=4096)
def _asks_for_input(function: Callable[..., Any]) -> bool:
    """Does the code of a function of `(ctx)` alone name `get_input`? What has no code to look at may."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is None or _names(code, "get_input")


def _names(code: CodeType, name: str) -> bool:
    return name in code.co_names or any(
        _names(inner, name) for inner in code.co_consts if isinstance(inner, CodeType)
    )
