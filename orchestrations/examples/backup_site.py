"""Fan-out and fan-in: every file of a folder is stored by an activity of its own, then a manifest is written.

celeriac start backup_site -i '{"root": "/srv/www", "backup_dir": "/var/backups/www"}' --wait
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from celeriac.activities.shipped.backup import StoreJob, list_files, store_file, write_manifest
from celeriac.orchestrations import OrchestrationContext, RetryPolicy, orchestrator

STORE_RETRY = RetryPolicy(
    timedelta(seconds=1), 5, backoff_coefficient=2, do_not_retry_on=(FileNotFoundError, PermissionError)
)


@dataclass(frozen=True)
class BackupRequest:
    """What to back up, and to where."""

    root: str
    backup_dir: str
    tracked_only: bool = False  # only what git tracks
    max_parallel: int | None = None  # most files in work at once; None leaves it to the engine


@dataclass(frozen=True)
class BackupResult:
    """What was backed up."""

    files: int
    bytes: int
    objects: int  # different contents
    manifest: str


@orchestrator
async def backup_site(ctx: OrchestrationContext, request: BackupRequest) -> BackupResult:
    """Copy every file into a content-addressed store and verify it; the manifest says what is where."""
    root, backup_dir = request.root, request.backup_dir
    paths = await ctx.call_activity(list_files, root, backup_dir, request.tracked_only)
    ctx.set_custom_status(f"storing {len(paths)} files")
    store = store_file.with_options(retry=STORE_RETRY)
    jobs = [StoreJob(root, path, backup_dir) for path in paths]
    stored = await ctx.map(store, jobs, max_parallel=request.max_parallel)
    manifest = await ctx.call_activity(write_manifest, root, backup_dir, ctx.current_utc_datetime, stored)
    ctx.set_custom_status(f"stored {len(stored)} files")
    return BackupResult(
        files=len(stored),
        bytes=sum(file.size for file in stored),
        objects=len({file.sha256 for file in stored}),
        manifest=manifest,
    )
