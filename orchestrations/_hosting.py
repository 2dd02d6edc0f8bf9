"""Who runs an activity for `testing`: the activities package enters itself here when it is imported.

So the core needs no import of activities, and an orchestrator's tests run the very code that a worker runs.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from . import codec
from .errors import UnknownActivityError


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """One attempt of an activity, as its context will tell it."""

    name: str
    instance: str
    execution: str
    seq: int
    attempt: int
    deadline: datetime | None
    is_cancelled: Callable[[], bool]


class Host(Protocol):
    """Runs one attempt: `replacement` or else the registered activity; JSON in, JSON out, exceptions as
    they are.
    """

    def __call__(self, info: AttemptInfo, call: str, replacement: Callable[..., Any] | None) -> str:
        """The result as JSON text."""
        ...


def _without_activities(info: AttemptInfo, call: str, replacement: Callable[..., Any] | None) -> str:
    """What can be done while celeriac.activities was never imported: run replacements."""
    if replacement is None:
        raise UnknownActivityError(f"no activity is called {info.name!r}; import the module that defines it")
    args, kwargs = codec.decode_call(call, replacement)
    result = replacement(*args, **kwargs)
    return codec.encode(asyncio.run(_value_of(result)) if inspect.isawaitable(result) else result)


async def _value_of(awaitable: Any) -> Any:
    return await awaitable


_host: Host = _without_activities


def set_host(host: Host) -> None:
    """Let `host` run activities from now on."""
    global _host
    _host = host


def host() -> Host:
    """Whoever runs activities."""
    return _host
