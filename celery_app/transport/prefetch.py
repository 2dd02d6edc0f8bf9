"""How many messages to take beyond what the pool can start at once: those that will start within a span.
Pure.

A worker of no-ops that takes one message at a time spends most of its time asking for the next one; a
worker of long activities that takes many keeps them from idle workers. So it takes what the running mean
of a queue's run times says will start within `span` seconds, and none ahead on a queue it knows nothing
of.
"""

from __future__ import annotations

__all__ = ["Pace"]

WEIGHT = 0.2  # of the newest run in the mean


class Pace:
    """Running mean of run time per queue."""

    __slots__ = ("_means", "limit", "span")

    def __init__(self, span: float = 0.05, limit: int = 64) -> None:
        self.span, self.limit = span, limit
        self._means: dict[str, float] = {}

    def note(self, queue: str, seconds: float) -> None:
        """A message of this queue took so long, from its start to its acknowledgement."""
        mean = self._means.get(queue)
        self._means[queue] = seconds if mean is None else mean + WEIGHT * (seconds - mean)

    def ahead(self, queue: str, slots: int) -> int:
        """How many messages of this queue start within the span, after those that fill the slots."""
        mean = self._means.get(queue)
        if mean is None:
            return 0
        return min(self.limit, int(self.span * slots / mean)) if mean > 0 else self.limit
