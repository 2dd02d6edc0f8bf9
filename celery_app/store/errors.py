"""What the store can refuse, and the one table from a script's error word to an exception.

StoreError
├── FencedError    the claim (or incarnation) is no longer the caller's: drop what you hold
├── GoneError      what this was about no longer exists
├── LimitError     too much for one call
├── ClashError     a key that should be a queue holds something else
└── StoreFullError Redis has no memory left; nothing was written

Errors that a user of the client meets are those of `orchestrations.errors`.
"""

from __future__ import annotations

from celeriac.orchestrations.errors import (
    CeleriacError,
    InstanceEndedError,
    InstanceExistsError,
    InstanceNotEndedError,
    InstanceNotFoundError,
    InvalidArgumentError,
    RedisFullError,
)

__all__ = [
    "ClashError",
    "FencedError",
    "GoneError",
    "LimitError",
    "StoreError",
    "StoreFullError",
    "error_for",
]


class StoreError(CeleriacError):
    """The store refused a call, or Redis answered it with an error."""


class FencedError(StoreError):
    """Someone else holds the instance now, or this incarnation was given up: discard what you hold."""


class GoneError(StoreError):
    """The execution, step or message this call was about no longer exists."""


class LimitError(StoreError):
    """More than one call may carry."""


class ClashError(StoreError):
    """A key the engine uses as a queue holds another type; nothing was written."""


class StoreFullError(StoreError, RedisFullError):
    """Redis is out of memory (maxmemory), or too near to that for new work; nothing was written."""


_BY_WORD: dict[str, type[CeleriacError]] = {
    "FENCED": FencedError,
    "GONE": GoneError,
    "FULL": StoreFullError,
    "LIMIT": LimitError,
    "CLASH": ClashError,
    "EXISTS": InstanceExistsError,
    "NOTFOUND": InstanceNotFoundError,
    "ENDED": InstanceEndedError,
    "RUNNING": InstanceNotEndedError,
    "INVALID": InvalidArgumentError,
}


def error_for(text: str) -> CeleriacError:
    """The exception for an error reply: its first word names the class, the rest is the message."""
    word, _, rest = text.partition(" ")
    cls = _BY_WORD.get(word)
    if cls is not None:
        return cls(rest)
    if "command not allowed when used memory" in text:  # 6.2 wraps it when it happens inside a script
        return StoreFullError(
            f"Redis is out of memory (raise maxmemory, or purge finished instances): {text}"
        )
    return StoreError(f"Redis answered: {text}")
