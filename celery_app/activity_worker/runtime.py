"""What a worker's processes and threads share: settings, the emitter, the store client and the wish to stop.

A store client is made where it is first needed, so a forked child never uses its parent's socket. The
wish to stop lies in shared memory, because only the parent of a prefork pool is told about a shutdown.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from typing import Any, Final

from celery import Celery, signals

from ..emission import Emitter
from ..sealing import seal_of
from ..settings import Settings
from ..store import Store

__all__ = ["Runtime", "runtime_of"]

_ATTRIBUTE: Final = "celeriac_runtime"


class Runtime:
    """One for each app; lives as long as the process and is inherited by forked children."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self.settings, self.seal = settings, seal_of(settings)
        self.emitter = Emitter(app, settings)
        self._owner = os.getpid()
        self._guard = threading.Lock()
        self._store: Store | None = None
        self._store_pid = 0
        self._stop = mmap.mmap(-1, 1)  # shared with children that are forked later
        os.register_at_fork(after_in_child=self._after_fork)
        signals.worker_shutting_down.connect(self._on_shutdown, weak=False)

    @property
    def store(self) -> Store:
        """This process' store client."""
        if self._store_pid != os.getpid():
            with self._guard:
                if self._store_pid != os.getpid():
                    self._store = Store.connect(self.settings)
                    self._store_pid = os.getpid()
        assert self._store is not None
        return self._store

    @property
    def stopping(self) -> bool:
        """True once the worker was asked to stop, or the parent of this child is gone."""
        if self._stop[0]:
            return True
        return self.in_child and os.getppid() != self._owner

    @property
    def in_child(self) -> bool:
        """True in a process of a prefork pool, where Celery itself enforces time limits."""
        return os.getpid() != self._owner

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until the worker is asked to stop."""
        end = time.monotonic() + seconds
        while not self.stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def _on_shutdown(self, **_: Any) -> None:
        self._stop[0] = 1

    def _after_fork(self) -> None:
        self._guard = threading.Lock()


def runtime_of(app: Celery, settings: Settings | None = None) -> Runtime:
    """The app's runtime; made at the first call, which must bring the settings."""
    found = getattr(app, _ATTRIBUTE, None)
    if found is None:
        if settings is None:
            raise RuntimeError(
                "this Celery app was not made by celeriac.celery_app.create_app, "
                "so it cannot report activities; use the `app` of celeriac.celery_app"
            )
        found = Runtime(app, settings)
        setattr(app, _ATTRIBUTE, found)
    return found
