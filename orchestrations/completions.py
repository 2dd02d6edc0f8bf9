"""`as_completed`: tasks in the order in which they finish, for both styles of author code.

One group keeps the order of the ends; each turn of the loop takes the next place in it. Many places
may be open at once (`list(as_completed(...))`), so an end looks up its place and never searches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from .tasks import OPEN, SUCCEEDED, Group, Task, checked_tasks

__all__ = ["Completions", "as_completed"]

T = TypeVar("T")


class _Ends(Group[None]):
    """Keeps the order in which its parts finish, and finishes the place of each."""

    __slots__ = ("ended", "waiting")

    def _at_first(self) -> int:
        self.waiting: dict[int, list[_Place]] = {}
        done = [part for part in dict.fromkeys(self._members) if part._state != OPEN]
        self.ended: list[Task[Any]] = sorted(done, key=lambda part: part._order)
        return OPEN if self._open_parts else SUCCEEDED

    def _after(self, part: Task[Any]) -> int:
        self._open_parts -= 1
        self.ended.append(part)
        for place in self.waiting.pop(len(self.ended) - 1, ()):
            if self._groups:
                self._groups.pop(place, None)
            place._finish(part._state)
        return OPEN if self._open_parts else SUCCEEDED

    def _value(self) -> None:
        return None

    def _title(self) -> str:
        return f"as_completed of {len(self._members)} tasks"


class _Place(Group[Any]):
    """Finishes as whichever task finishes as number `index`."""

    __slots__ = ("index", "source")

    def __init__(self, source: _Ends, index: int) -> None:
        self.source, self.index = source, index
        super().__init__((source,))

    def _at_first(self) -> int:
        if self.index < len(self.source.ended):
            return self.ended_task._state
        self.source.waiting.setdefault(self.index, []).append(self)
        return OPEN

    @property
    def ended_task(self) -> Task[Any]:
        """The task that took this place."""
        return self.source.ended[self.index]

    def _value(self) -> Any:
        return self.ended_task._outcome()

    def _error(self) -> Exception:
        return self.ended_task._error()

    def _title(self) -> str:
        return f"number {self.index + 1} of {self.source._title()}"


class Completions(Generic[T]):
    """What `as_completed` returns; iterate it once, with `for` or `async for`."""

    def __init__(self, tasks: Sequence[Task[T]]) -> None:
        self._source = _Ends(tasks)
        self._size = len(dict.fromkeys(tasks))
        self._next = 0

    def __iter__(self) -> Iterator[Task[T]]:
        return self

    def __next__(self) -> Task[T]:
        if self._next >= self._size:
            raise StopIteration
        self._next += 1
        return _Place(self._source, self._next - 1)

    def __aiter__(self) -> AsyncIterator[Task[T]]:
        return self

    async def __anext__(self) -> Task[T]:
        if self._next >= self._size:
            raise StopAsyncIteration
        place = _Place(self._source, self._next)
        self._next += 1
        if place._state == OPEN:
            await _Arrival(place)
        return place.ended_task


class _Arrival:
    """Awaits a place without reading its result, so that a failed task is handed over, not raised."""

    __slots__ = ("_place",)

    def __init__(self, place: _Place) -> None:
        self._place = place

    def __await__(self) -> Generator[Task[Any], Any, None]:
        yield self._place


def as_completed(tasks: Iterable[Task[T]]) -> Completions[T]:
    """The tasks in the order in which they finish.

    `async for task in as_completed(tasks)` gives the finished tasks themselves; `for next_one in
    as_completed(tasks)` gives a task to await (or yield) for the next result.
    """
    return Completions(checked_tasks("as_completed", tasks))
