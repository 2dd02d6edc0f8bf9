"""How client verbs are written once and run twice: as generators that ask, and drivers that answer.

An *operation* is a generator. It yields a store `Call` (and is sent its reply, or thrown its error), a list
of calls (sent as one pipeline; the first error is thrown), or a `Pause` (sent back when something happened or
the time is over), and returns the result of the verb. It never touches a socket, so `Client` and
`AsyncClient` run the very same code, each in its own colour.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from ..store import AsyncStore, Call, Store

T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """Wait at most so many seconds; less if woken."""

    seconds: float


Request: TypeAlias = "Call[Any] | Sequence[Call[Any]] | Pause"
Operation: TypeAlias = Generator[Request, Any, R]


def ask(call: Call[T]) -> Operation[T]:
    """`reply = yield from ask(call)`: one call, with its type."""
    return cast(T, (yield call))


def ask_all(calls: Sequence[Call[T]]) -> Operation[list[T]]:
    """Several calls of one kind as one pipeline; raises the first error among them."""
    return cast("list[T]", (yield calls)) if calls else []


def resumed(operation: Operation[R], request: Request) -> Operation[R]:
    """`yield from` for an operation that was already run up to this first request."""
    while True:
        try:
            reply = yield request
        except Exception as error:  # noqa: BLE001  not handled here: it is thrown into the operation
            send = _thrower(operation, error)
        else:
            send = _sender(operation, reply)
        try:
            request = send()
        except StopIteration as done:
            return cast(R, done.value)


def drive(operation: Operation[R], store: Store, pause: Callable[[float], None] = time.sleep) -> R:
    """Run an operation to its end on the calling thread."""
    send: Callable[[], Request] = lambda: next(operation)  # noqa: E731  rebound to send or throw below
    while True:
        try:
            request = send()
        except StopIteration as done:
            return cast(R, done.value)
        try:
            reply: Any
            if isinstance(request, Pause):
                reply = pause(request.seconds)
            elif isinstance(request, Call):
                reply = store.run(request)
            else:
                reply = _sound(store.run_all(request))
        except Exception as error:  # noqa: BLE001  not handled here: it is thrown into the operation
            send = _thrower(operation, error)
        else:
            send = _sender(operation, reply)


async def drive_async(
    operation: Operation[R], store: AsyncStore, pause: Callable[[float], Awaitable[None]]
) -> R:
    """Run an operation to its end on the running event loop."""
    send: Callable[[], Request] = lambda: next(operation)  # noqa: E731  rebound to send or throw below
    while True:
        try:
            request = send()
        except StopIteration as done:
            return cast(R, done.value)
        try:
            reply: Any
            if isinstance(request, Pause):
                reply = await pause(request.seconds)
            elif isinstance(request, Call):
                reply = await store.run(request)
            else:
                reply = _sound(await store.run_all(request))
        except Exception as error:  # noqa: BLE001  not handled here: it is thrown into the operation
            send = _thrower(operation, error)
        else:
            send = _sender(operation, reply)


def _thrower(operation: Operation[Any], error: Exception) -> Callable[[], Request]:
    return lambda: operation.throw(error)


def _sender(operation: Operation[Any], reply: object) -> Callable[[], Request]:
    return lambda: operation.send(reply)


def _sound(replies: Sequence[Any]) -> Sequence[Any]:
    """The replies of a pipeline, unless one of them is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
