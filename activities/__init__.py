"""Activities: the functions that do a workflow's work."""

from celeriac.orchestrations._hosting import set_host

from .context import INJECTED, ActivityContext
from .hosting import run_hosted
from .model import ACTIVITIES, Activity, ActivityRegistry, AsyncActivity, SyncActivity, activity
from .runner import run_activity

__all__ = [
    "ACTIVITIES",
    "INJECTED",
    "Activity",
    "ActivityContext",
    "ActivityRegistry",
    "AsyncActivity",
    "SyncActivity",
    "activity",
    "run_activity",
]

set_host(run_hosted)  # celeriac.orchestrations.testing runs activities by this
