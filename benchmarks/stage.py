"""What a workload without a counterpart is given: its size, how often, and the processes to run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from .machines import Ours, our_side, ready, redis_server


@dataclass(frozen=True)
class Stage:
    """The options of the run. In a smoke run one site serves all, to save the time of starting processes."""

    scale: float
    repeat: int
    shapes: list[str]
    smoke: bool = False
    million: bool = False
    shared: Ours | None = None

    def n(self, full: int, least: int = 10) -> int:
        """A size at this scale."""
        return max(least, round(full * self.scale))

    @contextmanager
    def site(
        self, shape: str, *, orchestrators: int = 1, options: list[list[str]] | None = None
    ) -> Iterator[Ours]:
        """A Redis, workers and orchestrators of one's own, ready; in a smoke run the shared ones."""
        if self.shared is not None:
            yield self.shared
            return
        with self.own_site(shape, orchestrators=orchestrators, options=options) as ours:
            yield ours

    @contextmanager
    def own_site(
        self, shape: str, *, orchestrators: int = 1, options: list[list[str]] | None = None
    ) -> Iterator[Ours]:
        """The same, its own in any case."""
        with redis_server() as server, ExitStack() as stack:
            ours = our_side(stack, server, shape, 0, orchestrators=orchestrators, options=options)
            ready(ours)
            yield ours
