"""Runs activities for `celeriac.orchestrations.testing`, by the same runner as a worker's."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from celeriac.orchestrations._hosting import AttemptInfo
from celeriac.orchestrations.errors import UnknownActivityError
from celeriac.orchestrations.history import ActivityOptions

from .context import ActivityContext
from .model import ACTIVITIES, Activity
from .runner import run_activity


def unknown(name: str, known: list[str]) -> str:
    """The message for an activity that nobody has defined, with the nearest names."""
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"no activity is called {name!r}{hint} (the modules named by --app define them)"


def run_hosted(info: AttemptInfo, call: str, replacement: Callable[..., Any] | None) -> str:
    """Run one attempt of a replacement, or of the registered activity of this name."""
    if replacement is None:
        found = ACTIVITIES.get(info.name)
        if found is None:
            raise UnknownActivityError(unknown(info.name, ACTIVITIES.names()))
    elif isinstance(replacement, Activity):
        found = replacement
    else:
        found = Activity(info.name, replacement, ActivityOptions())
    context = ActivityContext(
        instance_id=info.instance,
        execution_id=info.execution,
        seq=info.seq,
        attempt=info.attempt,
        name=info.name,
        deadline=info.deadline,
        is_cancelled=info.is_cancelled,
    )
    return run_activity(found, call, context)
