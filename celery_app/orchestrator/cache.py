"""A bounded cache of live executions.

Continuing an execution that is still in memory costs what its next step costs; replaying it costs its whole
history. An entry is only ever used when it is of the claimed run *and* the last commit of that run is the
one that made this entry. A commit is named by its claim, which is random and never given twice, and it was
applied to the history that this execution had. So whatever happened meanwhile (another process took a turn,
Redis lost a tail and others wrote a new one, be it with the same length and the same last event), a stale one
is dropped, never continued.

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
    last: str  # the claim of the commit that brought it here
    started: ExecutionStarted
    execution: Execution
    payloads: RunPayloads
    size: int = 0  # bytes of the history


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

    def take(self, instance: str, run: str, length: int, last: str) -> Live | None:
        """The live execution of this run that its last commit left behind; any other is dropped."""
        live = self._entries.pop(instance, None)
        if live is None or (live.run, live.execution.history_length, live.last) != (run, length, last):
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
