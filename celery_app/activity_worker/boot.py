"""What a worker checks before it takes a message: its Celery settings, and whether this Redis may be used."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from celery import bootsteps
from celery.concurrency.solo import TaskPool as Solo

from celeriac.orchestrations.errors import RedisUnavailableError, RedisUnsuitableError

from ..store import views
from ..store.server import ensure_startable, info, note_schema
from . import imposed
from .runtime import Runtime, runtime_of
from .task import ActivityTask

__all__ = ["BootCheck"]

logger = logging.getLogger("celeriac.worker")


class BootCheck(bootsteps.StartStopStep):
    """Refuses to start with imposed settings that somebody changed, or on a Redis that would lose work."""

    # Not before the pool: a prefork child must not inherit a connection.
    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        app = parent.app
        # Celery imports the backend when it first needs it: here, that is in the thread that reports a dead
        # child, while the main thread forks another one. That child would wait for the import for ever.
        import_module(f"{__package__}.backend")
        complaint = imposed.complaint(app, runtime_of(app).settings)
        if complaint:
            raise SystemExit(f"celeriac: {complaint}")
        for doubt in imposed.doubtful(app, runtime_of(app).settings):
            logger.warning("%s", doubt)
        if not runtime_of(app).settings.apps and not served(app):
            raise SystemExit(
                "celeriac: this worker has no activities to run, and would take messages that it cannot run. "
                "Name the modules that define them with --app, CELERIAC_APP or pyproject.toml."
            )
        if issubclass(parent.pool_cls, Solo):
            # It would sleep in the very thread whose activity it waits for.
            app.conf.worker_soft_shutdown_timeout = 0
        super().__init__(parent, **kwargs)

    def start(self, parent: Any) -> None:
        """Look at Redis and say which activities are served here."""
        try:
            introduce(runtime_of(parent.app), served(parent.app))
        except RedisUnavailableError as error:
            logger.warning("%s. Celery goes on trying; Redis was not checked", error)
        except RedisUnsuitableError as error:
            raise SystemExit(f"celeriac: this worker cannot start: {error}") from None


def served(app: Any) -> list[str]:
    """The names of the activities that this app runs."""
    return sorted(task.activity.name for task in app.tasks.values() if isinstance(task, ActivityTask))


def introduce(runtime: Runtime, activities: list[str]) -> None:
    """Check the server and its schema, and note the activities' names for `UnknownNameError` and `doctor`."""
    store = runtime.store
    for finding in ensure_startable(store.run(info()), runtime.settings.redis_url):
        logger.warning("Redis: %s", finding.text)
    store.run(note_schema(store.keys))
    store.run(views.note_served(store.keys, {f"a {name}": [""] for name in activities}))
