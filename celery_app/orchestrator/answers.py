"""What becomes of a claimed instance: a turn to commit, or a wait with its reason; and what is served."""

from __future__ import annotations

import dataclasses

from ..settings import Settings
from ..store import Call, Keys, turns
from ..store.records import Claimed, CommitReply
from .cache import Live
from .turns import Draft


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """A turn to commit, and the execution to keep when that succeeds."""

    claimed: Claimed
    draft: Draft
    call: Call[CommitReply]
    live: Live | None


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """An instance to hand back, to be tried again after `delay` ms."""

    claimed: Claimed
    delay: int
    reason: str
    offer: bool = False  # others can run it: wake one of them when the delay is over
    charge: bool = False  # the turn was at fault; charged too often, the instance is suspended
    suspend: bool = False  # not before somebody resumes it

    def call(self, keys: Keys, settings: Settings) -> Call[bool]:
        """The release that says so."""
        return turns.release(
            keys, self.claimed.instance, self.claimed.claim, self.delay, self.reason,
            charge=self.charge, most=settings.max_crashes, suspend=self.suspend,
        )  # fmt: skip


class Served:
    """Names and versions of orchestrators, and names of activities, that any process ever served."""

    def __init__(self, activities: set[str]) -> None:
        self._own = activities
        self.orchestrators: dict[str, set[str]] = {}
        self.activities: set[str] = set()
        self.missed = False  # somebody asked for an activity that is not known here

    def knows(self, activity: str) -> bool:
        """Is an activity of this name served anywhere?"""
        known = activity in self._own or activity in self.activities
        self.missed = self.missed or not known
        return known
