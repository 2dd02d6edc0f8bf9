"""A prefork worker's main process forks children while threads of its own are at work: this keeps them apart.

A forked child has only the thread that forked. A lock that another thread held at that moment stays held in
the child for ever, and what waits for it there hangs. No list of such locks is complete: kombu takes one for
each look at `app.amqp`, the import system one for each module, a buffered file one for each write. So a
thread of ours says when it is at work (`held_off`) and when it only waits (`allowed`), and a fork waits until
none is at work. It waits for `LIMIT` at most: an author's code, such as a retry handler or a receiver of a
Celery signal, must not keep a worker from replacing its children.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["LIMIT", "allowed", "held_off"]

logger = logging.getLogger("celeriac.worker")

LIMIT: Final = 5.0  # seconds that a fork waits; longer than a retry handler may take


class _Gate:
    """The process' one gate between its threads and its forks."""

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._renew)

    def _renew(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._busy: set[int] = set()
        self._late = False

    def enter(self, thread: int) -> None:
        with self._changed:
            self._busy.add(thread)

    def leave(self, thread: int) -> None:
        with self._changed:
            self._busy.discard(thread)
            self._changed.notify_all()

    def is_busy(self, thread: int) -> bool:
        return thread in self._busy

    def _close(self) -> None:
        """Before a fork. The lock stays held until after it, so that no thread begins to work meanwhile."""
        me = {threading.get_ident()}  # a thread at work may fork: what it holds is its own in the child too
        self._changed.acquire()
        self._late = not self._changed.wait_for(lambda: self._busy <= me, LIMIT)

    def _open(self) -> None:
        late = self._late
        self._changed.release()
        if late:
            logger.warning(
                "a child was forked although a thread of this worker has been at work for %g s. Should the "
                "child hang, the cause is a lock that the thread held: look for a retry handler, a receiver "
                "of Celery's signals or a log handler that is slow",
                LIMIT,
            )


_GATE: Final = _Gate()


@contextmanager
def held_off() -> Iterator[None]:
    """While this thread works, no other one forks (but see LIMIT). Within another `held_off`: nothing."""
    me = threading.get_ident()
    if _GATE.is_busy(me):
        yield
        return
    _GATE.enter(me)
    try:
        yield
    finally:
        _GATE.leave(me)


@contextmanager
def allowed() -> Iterator[None]:
    """While this thread waits, forks need not; for what takes no lock that a child needs. Outside of
    `held_off`: nothing.
    """
    me = threading.get_ident()
    if not _GATE.is_busy(me):
        yield
        return
    _GATE.leave(me)
    try:
        yield
    finally:
        _GATE.enter(me)
