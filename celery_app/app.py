"""The composition root: settings and the user's modules become one Celery app.

`create_app(settings)` makes the app with the imposed configuration, imports the modules that `--app` or
`CELERIAC_APP` name and registers every activity as a Celery task of the same name. A user's module may
itself say `from celeriac.celery_app import app` and define plain Celery tasks on it, on queues of its
own.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

from celery import Celery
from celery.signals import celeryd_init
from celery.worker import WorkController
from kombu.entity import Queue

from celeriac.activities import ACTIVITIES, ActivityRegistry
from celeriac.orchestrations.errors import InvalidArgumentError

from .activity_worker import imposed
from .activity_worker.boot import BootCheck
from .activity_worker.runtime import runtime_of
from .activity_worker.task import ActivityTask
from .settings import Settings
from .transport import worker_boot

__all__ = ["create_app", "current", "load_apps", "worker_queues"]

_current: Celery | None = None


class CeleriacApp(Celery):
    """A Celery app that knows the settings it was made from."""

    celeriac_settings: Settings


def create_app(
    settings: Settings, *, registry: ActivityRegistry = ACTIVITIES, load: bool = True
) -> CeleriacApp:
    """The app of this process. With `load`, imports the modules of `settings.apps` first of all."""
    global _current
    app = CeleriacApp("celeriac", set_as_current=True)
    app.celeriac_settings = settings
    app.conf.update(imposed.imposed(settings))
    cast(dict[str, set[Any]], app.steps)["worker"].add(BootCheck)
    runtime_of(app, settings)
    if settings.transport == "celeriac":
        worker_boot.install(app, settings)
    _current = app  # before the user's modules, which may import it
    if load:
        load_apps(settings.apps, settings.app_folder)
    register_activities(app, registry)
    return app


def current() -> Celery:
    """The app of this process, made from `Settings.load()` if nobody made one yet."""
    return _current if _current is not None else create_app(Settings.load())


def register_activities(app: CeleriacApp, registry: ActivityRegistry) -> None:
    """Register each activity as a task, and have workers serve the queues that activities name."""
    settings = app.celeriac_settings
    # A module of the user may have declared queues for plain tasks: they stay.
    queues = dict(app.amqp.Queues(app.conf.task_queues))
    names = [settings.queue]
    for name in registry.names():
        activity = registry.get(name)
        assert activity is not None  # the registry has just named it
        app.register_task(ActivityTask.of(activity, settings))
        names.append(activity.options.queue or settings.queue)
    for name in names:
        queues.setdefault(name, Queue(name, routing_key=name))
    app.conf.task_queues = tuple(queues.values())


def worker_queues(app: Celery) -> tuple[str, ...]:
    """The queues a worker serves when it is not told: the default one and those that activities name."""
    return tuple(queue.name for queue in app.conf.task_queues)


def load_apps(modules: Sequence[str], app_folder: str = "") -> list[ModuleType]:
    """Import the user's modules, from the current folder and `app_folder` too (in this order).

    InvalidArgumentError says which one cannot be imported and why not.
    """
    folders = list(dict.fromkeys((os.getcwd(), os.path.abspath(app_folder))))
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
    return [_load(name, " and ".join(folders)) for name in modules]


def _load(name: str, folder: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise InvalidArgumentError(
                f"there is no module {name!r} (named by --app, CELERIAC_APP or pyproject.toml). "
                f"Python looked in {folder} and in the installed packages; "
                "name the module as you would import it, for example my_project.workflows"
            ) from error
        raise _import_error(name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_error(name, error) from error


def _import_error(name: str, error: BaseException) -> InvalidArgumentError:
    # Only the user's own frames: those of importlib and of this file say nothing.
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    where = "".join(traceback.format_list(frames))
    what = "".join(traceback.format_exception_only(error))
    return InvalidArgumentError(f"module {name!r} cannot be imported:\n{where}{what}".rstrip())


def run_worker(app: Celery, arguments: list[str]) -> int | str:
    """Run a Celery worker to its end; what it ended with, which `worker_main` keeps to itself.

    An exit code, or the text of a refusal to start.
    """
    workers: list[WorkController] = []

    def remember(instance: WorkController, **_: Any) -> None:
        workers.append(instance)

    celeryd_init.connect(remember, weak=False)
    try:
        app.worker_main(["--quiet", *arguments])
    finally:
        celeryd_init.disconnect(remember)
    code: int | str | None = workers[-1].exitcode if workers else None  # a text: of a SystemExit
    return code or 0
