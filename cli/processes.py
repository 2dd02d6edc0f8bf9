"""The commands that run processes or look at them: orchestrator, worker, workers, doctor (and dev)."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click

from .common import Common, fail, json_option, pass_common, pass_serving, print_json
from .dev import dev
from .exits import Exit

if TYPE_CHECKING:
    from celeriac.celery_app.settings import Settings

log_option = click.option(
    "--log-level",
    "-l",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
)


def _serving_settings(common: Common) -> Settings:
    settings = common.settings()
    if not settings.apps:
        raise click.UsageError(
            "no modules to serve: name those that define your orchestrators and activities with --app, "
            "CELERIAC_APP or pyproject.toml (the shipped ones: --app celeriac.orchestrations.examples)"
        )
    return settings


def _refuse_unsuitable(settings: Settings) -> None:
    """Celery alone would try for ever to reach a Redis that is not there, and take one that loses work."""
    from celeriac.celery_app.store import Store
    from celeriac.celery_app.store.server import ensure_startable, info, note_schema

    with Store.connect(settings) as store:
        ensure_startable(store.run(info()), settings.redis_url)
        store.run(note_schema(store.keys))


@click.command()
@log_option
@pass_serving
def orchestrator(common: Common, log_level: str) -> None:
    """Run an orchestrator worker.

    It runs the code of orchestrators; have as many as you like, there is no leader.
    SIGTERM or Ctrl-C hands its instances to the others at once.
    """
    settings = _serving_settings(common)
    logging.basicConfig(
        level=log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    from celeriac.celery_app.compose import run_orchestrator

    run_orchestrator(settings)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--concurrency", "-c", type=click.IntRange(1, 10_000), help="At once.  [default: one a core]")
@click.option(
    "--pool", "-P", type=click.Choice(["prefork", "threads", "solo"]), default="prefork", show_default=True
)
@click.option("--queues", "-Q", metavar="Q,Q", help="Only these queues; all that the modules name otherwise.")
@click.option("--name", "-n", metavar="NAME", help="Celery's node name; host and pid otherwise.")
@log_option
@click.argument("celery_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- CELERY OPTIONS]")
@pass_serving
def worker(
    common: Common,
    concurrency: int | None,
    pool: str,
    queues: str | None,
    name: str | None,
    log_level: str,
    celery_arguments: tuple[str, ...],
) -> int:
    """Run a Celery worker for activities.

    The same as `celery -A celeriac.celery_app worker`, with good defaults. What follows `--` goes
    to Celery: celeriac worker -- --max-tasks-per-child 1000
    """
    settings = _serving_settings(common)
    _refuse_unsuitable(settings)
    from celeriac.celery_app.activity_worker import imposed
    from celeriac.celery_app.app import create_app, run_worker, worker_queues

    celery_app = create_app(settings)
    complaint = imposed.complaint(celery_app, settings)  # here: Celery ends with 0 when it refuses pickle
    if complaint:
        fail(complaint, Exit.USAGE)
    arguments = [
        "worker",
        f"--pool={pool}",
        f"--concurrency={1 if pool == 'solo' else concurrency or os.cpu_count() or 1}",
        f"--queues={queues or ','.join(worker_queues(celery_app))}",
        f"--hostname={name or f'worker-{os.getpid()}@%h'}",
        f"--loglevel={log_level.upper()}",
        # Between workers there is nothing to gossip about: beats and recovery go through Redis.
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        *celery_arguments,
    ]
    if log_level.upper() == "INFO":  # one line for each activity is enough: that it has ended
        logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    # Celery warns of root because of pickle, which we refuse.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    code = run_worker(celery_app, arguments)
    if isinstance(code, str):
        fail(code.removeprefix("celeriac: "), Exit.FAILED)
    return code


@click.command()
@json_option
@pass_common
def workers(common: Common, as_json: bool) -> None:
    """Show the orchestrators, workers and listeners.

    A process that was killed stays in the list until its lease ends (CELERIAC_LEASE); until then
    it says for how long nothing was heard of it.
    """
    with common.client() as client:
        processes = sorted(client.workers(), key=lambda process: (process.kind, process.incarnation))
        lease, beat = client.settings.lease, client.settings.beat
    if as_json:
        print_json([process.to_payload() for process in processes])
        return
    if not processes:
        click.echo("No process is alive. `celeriac dev` runs everything for a folder.", err=True)
        return
    from . import render

    out = render.console()
    out.print(render.process_table(processes, lease, beat, out.width))


@click.command()
@json_option
@pass_common
def doctor(common: Common, as_json: bool) -> int:
    """Check versions, Redis, processes and queues.

    Exits 0 unless a check refuses (a warning is not a refusal).
    """
    from celeriac.celery_app import doctor as checks

    with contextlib.redirect_stdout(sys.stderr):  # what the modules print must not mix with the report
        report = checks.examine(common.settings())
    if as_json:
        print_json(report.to_payload())
    else:
        _show_report(report)
    return Exit(report.exit_code)


def _show_report(report: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from . import render

    out = render.console()
    marks = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "refuse": ("✗", "red")}
    for title, facts in report.facts.items():
        out.print(Text(title, style="bold"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, fact in facts.items():
            grid.add_row(f"  {name}", Text(str(fact)))
        out.print(grid)
    out.print(Text("Checks", style="bold"))
    grid = Table.grid(padding=(0, 1))
    for check in report.checks:
        mark, style = marks[check.level]
        grid.add_row(Text(f"  {mark}", style=style), Text(check.name), Text(check.text, style=style))
    out.print(grid)


COMMANDS = (dev, orchestrator, worker, workers, doctor)
