"""Claimed instances on their way to a turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from celeriac.orchestrations.history import AnyEvent
from celeriac.orchestrations.registry import OrchestratorDefinition

from ..store.records import Claimed
from .cache import Live
from .reading import Need

HISTORY_AT_ONCE = 50_000  # events


@dataclasses.dataclass(slots=True)
class Job:
    """One claimed instance on its way."""

    claimed: Claimed
    definition: OrchestratorDefinition
    events: list[AnyEvent]  # controls and inbox items to apply, in order
    at: list[int]  # the position in the inbox of each event that comes from there
    wanting: dict[int, int]  # position in the inbox -> seq of the group that wants its next window
    live: Live | None
    history: list[AnyEvent]
    need: Need
    size: int = 0  # bytes of the history, once it was read


def portions(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs whose histories are read at once: as many as have about HISTORY_AT_ONCE events together."""
    portion: list[Job] = []
    size = 0
    for job in jobs:
        length = job.claimed.history_length if job.live is None else 0
        if portion and size + length > HISTORY_AT_ONCE:
            yield portion
            portion, size = [], 0
        portion.append(job)
        size += length
    if portion:
        yield portion


def source_file(definition: OrchestratorDefinition) -> str:
    """Where the source of an orchestrator stands."""
    code = getattr(definition.function, "__code__", None)
    return code.co_filename if code is not None else definition.where.rpartition(":")[0]
