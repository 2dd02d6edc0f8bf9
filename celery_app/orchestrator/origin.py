"""Has Redis been restarted or replaced since we last looked, and did it lose what we knew to be written?

A process whose connection breaks is told so; one whose connection was idle when Redis died is given a new
one in silence. So the store notes at every connect which server answered (`Store.origin`), and the loop asks
here before each round. What Redis lost is judged by the last commit that it acknowledged to this process.
"""

from __future__ import annotations

import logging

from ..store import Store, command
from ..store.records import Commit

logger = logging.getLogger("celeriac.orchestrator")


class Origin:
    """What one orchestrator knows of the server behind its store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes = 0
        self._newest: tuple[str, str, int] | None = None  # instance, execution, events

    def committed(self, commit: Commit) -> None:
        """Redis has acknowledged this commit."""
        if not commit.status and commit.next_run is None:  # else its history may be gone by now
            self._newest = (commit.instance, commit.execution, commit.base + len(commit.events))

    @property
    def changed(self) -> bool:
        """Does another server answer than at the last `note`?"""
        return self._store.origin.changes != self._changes

    def note(self) -> None:
        """Take the server as it is now; say so when it is another one, and what it has lost."""
        if not self.changed:
            return
        self._changes = self._store.origin.changes
        logger.warning("Redis was restarted or failed over (%s); going on anew", self._store.origin.server)
        newest, self._newest = self._newest, None
        if newest is None:
            return
        instance, execution, length = newest
        keys = self._store.keys
        there = self._store.run(command("HGET", keys.inst(instance), "execution"))
        if there == execution.encode():
            now = self._store.run(command("LLEN", keys.hist(instance)))
            if now < length:
                logger.error(
                    "Redis went back in time: it had acknowledged event %d of %s, and has %d now. Everything "
                    "went back together and the work goes on from there; see docs/how-to/redis.md",
                    length, instance, now,
                )  # fmt: skip
