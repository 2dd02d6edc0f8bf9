"""`celeriac demo`: the three shipped orchestrations on real input, with real processes, checked."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .common import fail
from .exits import Exit

if TYPE_CHECKING:
    from .demo_run import Run

EXAMPLES: Final = "celeriac.orchestrations.examples"


@click.command()
@click.option(
    "--path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder to back up; the files that git tracks in this checkout otherwise.",
)
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True)
@click.option("--orchestrators", type=click.IntRange(1, 16), default=1, show_default=True)
@click.option(
    "--timeout", type=click.IntRange(1), default=110, show_default=True, help="Seconds; then it failed."
)
@click.option("--stay", is_flag=True, help="Keep it all running at the end, to look around, until Ctrl-C.")
def demo(path: Path | None, workers: int, orchestrators: int, timeout: int, stay: bool) -> int:
    """See it work: three orchestrations on real input.

    Starts a private Redis, an orchestrator and Celery workers as real processes, backs up a folder,
    fulfils orders and has expenses approved, checks every result, and stops what it started. Kill any
    of its processes with kill -9 meanwhile: it ends just as well.
    """
    from .demo_parts import Backup, Expenses, Orders
    from .demo_run import Run

    root, tracked_only = (path.resolve(), False) if path else _checkout()
    with _folder() as folder, _interruptible():
        run = Run(folder, orchestrators, workers, timeout)
        try:
            run.up(EXAMPLES)
            expenses = Expenses(folder / "expenses", run.environment)
            parts = [Backup(root, folder / "backup", tracked_only), Orders(folder / "shop.db"), expenses]
            try:
                good = run.play(parts)
            finally:
                expenses.close()
            _farewell(run, good)
            if stay:
                _stay(run)
        finally:
            run.down()
    return Exit.OK if good else Exit.FAILED


def _checkout() -> tuple[Path, bool]:
    """What to back up by default: the checkout this runs from, else the one we are in, else our own code."""
    import celeriac.orchestrations as package

    installed = Path(package.__file__ or ".").resolve().parent
    for folder in (installed.parent, Path.cwd()):
        with contextlib.suppress(FileNotFoundError):
            listed = subprocess.run(["git", "-C", str(folder), "ls-files"], capture_output=True, check=False)
            if listed.returncode == 0 and listed.stdout.strip():
                return folder, True
    return installed, False


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A private folder for Redis, logs and results, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="celeriac-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: in order."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _farewell(run: Run, good: bool) -> None:
    if not good:
        fail_text = "the demo went wrong; what the processes said last:\n" + run.log_tail()
        run.down()
        fail(fail_text, Exit.FAILED)
    bin_folder = Path(sys.executable).parent
    away = shutil.which("celeriac") is None and (bin_folder / "activate").exists()
    shown = bin_folder.relative_to(Path.cwd()) if bin_folder.is_relative_to(Path.cwd()) else bin_folder
    activate = f"  . {shown}/activate   first, in every terminal: puts celeriac on the path\n"
    click.echo(
        "\nLook further\n"
        f"{activate if away else ''}"
        "  celeriac demo --stay   the same, and leaves it running, to look around\n"
        "  celeriac dev           these processes for your own work (make dev); then\n"
        "                         in another terminal, in the same folder:\n"
        """  celeriac start backup_site -i '{"root": ".", "backup_dir": "backup"}' --wait\n"""
        "  the workflows          orchestrations/examples/, 50 to 130 lines each\n"
        "  your first one         docs/tutorial/"
    )


def _stay(run: Run) -> None:
    click.echo(
        "\nStill running. In another terminal (where celeriac is on the path):\n"
        f"  export CELERIAC_REDIS_URL='{run.settings.redis_url}'\n"
        "  celeriac list\n"
        "  celeriac history order-nowhere\n"
        "  celeriac workers\n"
        "Ctrl-C stops it and removes everything."
    )
    with contextlib.suppress(KeyboardInterrupt):
        while run.supervisor.failure is None:
            time.sleep(0.5)  # the supervisor has a thread of its own; this one waits for Ctrl-C


def process_environment() -> dict[str, str]:
    """The environment for children: none of the caller's own Celeriac settings may reach the demo."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
