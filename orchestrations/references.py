"""How an orchestrator names what it calls: by reference, which brings types and options, or by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ParamSpec, Protocol, TypeVar

from . import codec
from .history import ActivityOptions
from .registry import Orchestrator

__all__ = ["ActivityReference", "activity_parts", "orchestrator_parts"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

_DEFAULT_OPTIONS = ActivityOptions()


class ActivityReference(Protocol[P, R_co]):
    """What the core needs of an activity; `celeriac.activities.Activity` is one."""

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    @property
    def options(self) -> ActivityOptions:
        """How it is to be run."""
        ...

    @property
    def function(self) -> Callable[..., Any]:
        """The plain function; its annotations say how to read the result."""
        ...

    def signature(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Only for type checkers: the parameters, and what awaiting the call gives."""
        ...


@lru_cache(maxsize=4096)
def _result_type(function: Callable[..., Any]) -> Any:
    return codec.result_type(function)


def activity_parts(activity: Any, verb: str) -> tuple[str, ActivityOptions, Any]:
    """Name, options and result type of an activity given by reference or by name."""
    if isinstance(activity, str):
        return activity, _DEFAULT_OPTIONS, Any
    options = getattr(activity, "options", None)
    if not isinstance(options, ActivityOptions):
        raise TypeError(
            f"{verb} takes an activity or the name of one, not {activity!r}; "
            "decorate the function with @activity"
        )
    function = getattr(activity, "function", None)
    return activity.name, options, Any if function is None else _result_type(function)


def orchestrator_parts(orchestrator: Any, version: str | None, verb: str) -> tuple[str, str, Any]:
    """Name, version and result type of an orchestrator given by reference or by name."""
    if isinstance(orchestrator, str):
        return orchestrator, version or "", Any
    if not isinstance(orchestrator, Orchestrator):
        raise TypeError(
            f"{verb} takes an orchestrator or the name of one, not {orchestrator!r}; "
            "decorate it with @orchestrator"
        )
    definition = orchestrator.definition
    return definition.name, definition.version if version is None else version, definition.result_type
