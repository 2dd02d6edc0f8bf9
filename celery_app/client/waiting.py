"""`client.wait`: look, sleep until Redis says that the instance ended, look again.

The caller holds a subscription to the instance's channel around this (store/endings.py), and its pauses end
when that wakes it. Redis going away meanwhile is survived: the subscription is made again and wakes every
waiter to look. Silence is not trusted for ever: every RECHECK seconds the waiter looks by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from celeriac.orchestrations.errors import InvalidArgumentError, RedisUnavailableError

from .driving import Operation, Pause
from .state import OrchestrationState

RECHECK = 15.0  # seconds between looks that nothing asked for
PATIENCE = 60.0  # seconds Redis may be away before a waiter gives up

Read = Callable[[], Operation[OrchestrationState]]


def check_timeout(timeout: float | timedelta | None) -> float | None:
    """The time-out in seconds, None for none."""
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds >= 0:
        raise InvalidArgumentError(
            f"timeout is a number of seconds, 0 or more, or a timedelta, not {timeout!r}"
        )
    return seconds


def until_ended(
    instance_id: str, read: Read, timeout: float | None, *, clock: Callable[[], float] = time.monotonic
) -> Operation[OrchestrationState]:
    """The state of the instance once it has ended; TimeoutError when it has not in time."""
    start = clock()
    last_seen = start
    state: OrchestrationState | None = None
    first = True
    while True:
        left = RECHECK if timeout is None else timeout - (clock() - start)
        if left <= 0:
            status = state.status.value if state else "out of reach"
            raise TimeoutError(f"instance {instance_id!r} has not ended within {timeout:g} s; it is {status}")
        # The first pause ends when the subscription is confirmed; if Redis is slow to confirm, look anyway.
        yield Pause(min(left, 1.0 if first else RECHECK))
        first = False
        try:
            state = yield from read()
        except RedisUnavailableError:
            if clock() - last_seen > PATIENCE:
                raise
            continue
        last_seen = clock()
        if state.is_final:
            return state
