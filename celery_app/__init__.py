"""The engine on Celery and Redis, and the client to it.

    from celeriac.celery_app import Client            # or AsyncClient
    from celeriac.celery_app import app               # the Celery app, also for plain tasks of your own

`celery -A celeriac.celery_app worker` works. Everything is made when it is first asked for: importing
this package reads no settings and imports no Celery.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

    from .client import AsyncClient, Client

    app: Celery
    """The Celery app of this process."""

__all__ = ["AsyncClient", "Client", "app"]


def __getattr__(name: str) -> Any:
    if name in ("Client", "AsyncClient"):
        from . import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps `app` the Celery app: a submodule has that name too, and its import would set the attribute."""

    @property
    def app(self) -> Any:
        """The Celery app of this process, made at first use."""
        from .app import current

        return current()

    @app.setter
    def app(self, module: Any) -> None:
        """The import system stores the submodule here; `celeriac.celery_app.app` stays importable without."""


sys.modules[__name__].__class__ = _Package
