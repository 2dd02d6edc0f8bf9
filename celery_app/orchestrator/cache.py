"""A bounded cache of live executions.

Continuing an execution that is still in memory costs what its next step costs; replaying it costs its whole
history. An entry is only ever used when it is of the claimed run *and* has applied exactly the events that
the store holds, by their number and by the last one: whatever happened meanwhile (another process took a
turn, Redis lost a tail and others wrote a new one), a stale one is dropped, never continued.

`take` removes the entry: an execution whose commit does not come back with OK is simply not `put` again.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable

from celeriac.orchestrations.history import ExecutionStarted
from celeriac.orchestrations.replay import Execution

from .payloads import RunPayloads


@dataclasses.dataclass(slots=True)
class Live:
    """An execution in memory and the payloads it reads from."""

    run: str  # execution id
    tail: str  # SHA-1 of the last event applied
    started: ExecutionStarted
    execution: Execution
    payloads: RunPayloads


class LiveCache:
    """Least recently used executions first out; `size` 0 keeps none (every turn replays).

    `discard` is told of each that goes: closing one may run the author's `finally` blocks.
    """

    def __init__(self, size: int, discard: Callable[[str, Live], None]) -> None:
        self._size, self._discard = size, discard
        self._entries: OrderedDict[str, Live] = OrderedDict()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, instance: str, run: str, length: int, tail: str) -> Live | None:
        """The live execution of this run that has applied exactly these events; any other is dropped."""
        live = self._entries.pop(instance, None)
        if live is None or (live.run, live.execution.history_length, live.tail) != (run, length, tail):
            self.misses += 1
            if live is not None:
                self._discard(instance, live)
            return None
        self.hits += 1
        return live

    def put(self, instance: str, live: Live) -> None:
        """Keep an execution whose commit was applied."""
        self._entries[instance] = live
        self._entries.move_to_end(instance)
        while len(self._entries) > self._size:
            self._discard(*self._entries.popitem(last=False))

    def clear(self) -> None:
        """Forget all: Redis was away and may have come back with an older state."""
        while self._entries:
            self._discard(*self._entries.popitem())
