"""Texts of failures that several parts of the engine report."""

from __future__ import annotations

from celeriac.orchestrations.errors import FailureDetails


def unknown_activity(name: str) -> str:
    """What is wrong with an activity that nobody serves, and what to do."""
    return (
        f"no worker or orchestrator has ever registered an activity named {name!r}. "
        "Is the module that defines it given to the workers (--app, CELERIAC_APP)?"
    )


def unserved_orchestrator(name: str) -> str:
    """What is wrong with an orchestrator that nobody serves, and what to do."""
    return (
        f"no orchestrator worker has ever registered an orchestrator named {name!r}. "
        "Is the module that defines it given to `celeriac orchestrator` (--app, CELERIAC_APP)?"
    )


def cancelled_failure(instance: str, reason: str) -> FailureDetails:
    """How a parent sees a child that was cancelled."""
    return FailureDetails(
        error_type="celeriac.orchestrations.errors.OrchestrationCancelledError",
        message=f"{instance} was cancelled{f': {reason}' if reason else ''}",
        bases=(
            "celeriac.orchestrations.errors.CeleriacError",
            "builtins.Exception",
            "builtins.BaseException",
        ),
    )
