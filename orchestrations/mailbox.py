"""Raised events on their way to the author's waiters.

An event goes to the oldest waiter of its name (case does not count) among those the orchestrator is
awaiting now, that is: reachable from the awaited task through tasks that have not finished. With no
such waiter it is kept, first in first out, and given as soon as an await reaches a waiter of its
name. So a waiter that was dropped, or never awaited, swallows nothing.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from .history import EventRaised

if TYPE_CHECKING:
    from .steps import EventTask
    from .tasks import Task

__all__ = ["Mailbox"]


class Mailbox:
    """Events not yet taken, and who listens at the awaited task."""

    __slots__ = ("_arrivals", "_awaited", "_kept", "_listening", "count")

    def __init__(self) -> None:
        self.count = 0  # how many events are kept
        self._arrivals = 0
        self._kept: dict[str, deque[tuple[int, EventRaised]]] = {}
        self._awaited: Task | None = None  # whose listeners `_listening` holds
        self._listening: dict[str, deque[EventTask]] = {}

    def deliver(self, event: EventRaised, awaited: Task | None) -> None:
        """Give an event that arrives now to a waiter under `awaited`, or keep it."""
        key = event.name.casefold()
        waiter = self._waiter(key, awaited) if awaited is not None and awaited._hears else None
        if waiter is not None:
            waiter._take(event)
            return
        self._arrivals += 1
        self.count += 1
        self._kept.setdefault(key, deque()).append((self._arrivals, event))

    def offer(self, awaited: Task) -> None:
        """The orchestrator begins to await this: give it kept events, in the order they arrived."""
        listening = self._listeners(awaited)
        few, many = (listening, self._kept) if len(listening) < len(self._kept) else (self._kept, listening)
        heads = [(self._kept[key][0][0], key) for key in few if key in many]
        heapq.heapify(heads)
        while heads and not awaited._state:
            _, key = heapq.heappop(heads)
            waiter = self._waiter(key, awaited)
            if waiter is None:
                continue
            kept = self._kept[key]
            _, event = kept.popleft()
            self.count -= 1
            if kept:
                heapq.heappush(heads, (kept[0][0], key))
            else:
                del self._kept[key]
            waiter._take(event)

    def leftovers(self) -> list[EventRaised]:
        """What nobody took, in the order it arrived."""
        return [event for _, event in sorted(pair for kept in self._kept.values() for pair in kept)]

    def _waiter(self, key: str, awaited: Task) -> EventTask | None:
        """The oldest open waiter of this name that `awaited` still depends on."""
        queue = self._listeners(awaited).get(key)
        while queue:
            waiter = queue[0]
            if not waiter._state and _leads_to(waiter, awaited):
                return waiter
            queue.popleft()  # finished, or a group between has: neither comes back
        return None

    def _listeners(self, awaited: Task) -> dict[str, deque[EventTask]]:
        if self._awaited is not awaited:
            found = _open_waiters(awaited)
            found.sort(key=lambda waiter: waiter._number)
            self._awaited, self._listening = awaited, {}
            for waiter in found:
                self._listening.setdefault(waiter._key, deque()).append(waiter)
        return self._listening


def _open_waiters(awaited: Task) -> list[EventTask]:
    found: list[EventTask] = []
    seen, stack = {awaited}, [awaited]
    while stack:
        task = stack.pop()
        waiter = task._waiter()
        if waiter is not None:
            found.append(waiter)
        for part in task._parts():
            if part._hears and not part._state and part not in seen:
                seen.add(part)
                stack.append(part)
    return found


def _leads_to(waiter: Task, awaited: Task) -> bool:
    """Is there a way up from the waiter to the awaited task? Finished groups have let go of their parts."""
    seen, stack = {waiter}, [waiter]
    while stack:
        task = stack.pop()
        if task is awaited:
            return True
        for group in task._groups or ():
            if group not in seen:
                seen.add(group)
                stack.append(group)
    return False
