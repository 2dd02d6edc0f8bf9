"""`celeriac dev`: Redis, orchestrators and workers for the current folder, in one terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .common import Common, fail, pass_serving
from .exits import Exit

if TYPE_CHECKING:
    from celeriac.celery_app.embedded import EmbeddedRedis
    from celeriac.celery_app.settings import Settings

    from .reloading import Code
    from .supervisor import Supervisor

EXAMPLES: Final = "celeriac.orchestrations.examples"
LOOK_SECONDS: Final = 1.0
RELOADED: Final = "When you change your code, the processes start again with it."
NOT_RELOADED: Final = (
    "After changing your code stop this and start it again: until then it runs the old code."
)
COLOURS: Final = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green")


@click.command()
@click.option(
    "--workers", type=click.IntRange(0, 64), default=2, show_default=True, help="Celery activity workers."
)
@click.option("--orchestrators", type=click.IntRange(0, 64), default=1, show_default=True)
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=2, show_default=True, help="Of each worker."
)
@click.option(
    "--pool", type=click.Choice(["prefork", "threads", "solo"]), default="prefork", show_default=True
)
@click.option("--no-reload", is_flag=True, help="Go on with the old code when a file of yours changes.")
@pass_serving
def dev(
    common: Common, workers: int, orchestrators: int, concurrency: int, pool: str, no_reload: bool
) -> None:
    """Run everything for this folder, a Redis included.

    The data stays in .celeriac/ from run to run. In another terminal, in this folder or one
    below, every command finds this Redis and your modules without settings. When you change a
    file of your modules, the processes are started again. Ctrl-C stops it all.
    """
    settings = common.settings(beside_dev=False)
    if not settings.apps:
        settings = settings.with_apps(EXAMPLES)
    folder = _prepare_folder(Path.cwd())
    with _only_one(folder), _redis(common, settings, folder) as (settings, redis):
        _run(settings, redis, folder, [
            *((f"orchestrator-{n}", ["orchestrator"]) for n in range(1, orchestrators + 1)),
            *(
                (f"worker-{n}", ["worker", "--concurrency", str(concurrency), "--pool", pool])
                for n in range(1, workers + 1)
            ),
        ], reload=not no_reload)  # fmt: skip


def _run(
    settings: Settings,
    redis: EmbeddedRedis | None,
    folder: Path,
    children: list[tuple[str, list[str]]],
    *,
    reload: bool,
) -> None:
    from .reloading import Code
    from .supervisor import ChildFailedError, Supervisor

    environment = {**os.environ, **settings.environment(), "PYTHONUNBUFFERED": "1"}
    code = Code(environment)
    if complaint := code.load():  # once, here, rather than by every process
        fail(complaint, Exit.USAGE)
    printer = _Printer([name for name, _ in children])

    def each_turn() -> None:
        if redis is not None and not redis.is_running:
            printer.notice("redis", "ended; starting it again on its data")
            redis.restart()
            _write_record(folder, settings, redis)
        reloading.look()
        ready.announce({child.pid for child in supervisor.children.values()})

    ready = _Ready(settings, reload)
    supervisor = Supervisor(environment, printer.line, printer.notice, each_turn)
    reloading = _Reloading(code, supervisor, printer, reload)
    _greet(settings, redis, folder)
    try:
        with _signals(supervisor):
            for name, arguments in children:
                supervisor.add(name, arguments)
            supervisor.serve()
            click.echo("\nStopping ... (Ctrl-C again to hurry)", err=True)
            supervisor.stop()  # here, while a second Ctrl-C still reaches it
    except ChildFailedError as error:
        fail(f"{error.headline}; what it said is above", Exit.USAGE if error.code == 2 else Exit.FAILED)
    finally:
        supervisor.stop()


def _greet(settings: Settings, redis: EmbeddedRedis | None, folder: Path) -> None:
    data = f"its data stays in {folder.name}/" if redis else "not ours, not stopped with us"
    click.echo(f"Redis   {settings.shown_url}  ({data})")
    click.echo(f"Modules {', '.join(settings.apps)}")


class _Reloading:
    """Has the processes started again when a file of the author's code changed and can still be imported."""

    def __init__(self, code: Code, supervisor: Supervisor, printer: _Printer, on: bool) -> None:
        self._code, self._supervisor, self._printer, self._on = code, supervisor, printer, on
        self._next = time.monotonic() + LOOK_SECONDS

    def look(self) -> None:
        """Look, at most once a second."""
        if not self._on or time.monotonic() < self._next:
            return
        changed = ", ".join(self._code.changed())
        if changed:
            complaint = self._code.load()
            for line in complaint.splitlines():
                self._printer.line("code", line)
            if complaint:
                self._printer.notice("code", f"{changed} changed; the old code goes on until this is mended")
            else:
                self._printer.notice("code", f"{changed} changed: restarting")
                self._supervisor.renew()
        self._next = time.monotonic() + LOOK_SECONDS


class _Ready:
    """Says once that everything is up, and what to type in the other terminal."""

    def __init__(self, settings: Settings, reload: bool) -> None:
        self._settings, self._reload = settings, reload
        self._next, self._done = time.monotonic(), False

    def announce(self, expected: set[int]) -> None:
        """Look, at most twice a second, whether every process (by its pid) has reported itself."""
        if self._done or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 0.5
        from celeriac.celery_app.client.sync import Client

        with Client(settings=self._settings) as client:
            if not expected <= {process.info.get("pid") for process in client.workers()}:
                return
            names = sorted(client.served().orchestrators)
        self._done = True
        some = "backup_site" if "backup_site" in names else names[0] if names else "NAME"
        value = """'{"root": ".", "backup_dir": "backup"}'""" if some == "backup_site" else "JSON"
        click.echo(
            f"\n{click.style('Ready.', fg='green', bold=True)} "
            f"Orchestrators: {', '.join(names) or 'none: your modules define no @orchestrator'}\n"
            "In another terminal, in this folder:\n"
            f"  celeriac start {some} -i {value} --wait\n"
            "  celeriac list | status ID | watch ID | history ID | workers | doctor\n"
            f"{RELOADED if self._reload else NOT_RELOADED}\n"
            "Ctrl-C stops everything; instances go on next time.\n"
        )


class _Printer:
    """Prints the children's lines with a coloured prefix of one width."""

    def __init__(self, names: list[str]) -> None:
        self._width = max((len(name) for name in names), default=8)
        self._colour = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}
        self._plain = not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR"))

    def line(self, name: str, text: str) -> None:
        """One line that a child printed."""
        prefix = f"{name:<{self._width}} |"
        click.echo(f"{prefix if self._plain else click.style(prefix, fg=self._colour.get(name))} {text}")

    def notice(self, name: str, text: str) -> None:
        """Something that happened to a child."""
        words = f"* {text}"
        self.line(name, words if self._plain else click.style(words, fg="yellow", bold=True))


# --- the folder and its Redis ---------------------------------------------------------------------


def _prepare_folder(cwd: Path) -> Path:
    folder = cwd / ".celeriac"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        fail(f"{folder} cannot be made: {error}", Exit.USAGE)
    return folder


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    with (folder / "dev.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            fail(
                f"celeriac dev runs already for {folder.parent} (pid {pid}); use that one, or stop it",
                Exit.EXISTS,
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def _redis(
    common: Common, settings: Settings, folder: Path
) -> Iterator[tuple[Settings, EmbeddedRedis | None]]:
    """The Redis that was asked for by option, variable or pyproject.toml, else one of this folder's own."""
    from celeriac.celery_app import embedded

    if common.redis_url or settings.configured_redis_url():
        yield settings, None
        return
    redis = embedded.start(folder / "redis")
    try:
        settings = replace(settings, redis_url=redis.url)
        _write_record(folder, settings, redis)
        yield settings, redis
    finally:
        (folder / "dev.json").unlink(missing_ok=True)
        redis.stop()


def _write_record(folder: Path, settings: Settings, redis: EmbeddedRedis) -> None:
    from celeriac.celery_app import embedded

    record = {
        "redis_url": redis.url,
        "hub": settings.hub,
        "apps": list(settings.apps),
        "app_folder": settings.app_folder or str(folder.parent),
        "pid": os.getpid(),
        "redis_pid": redis.pid,
    }
    embedded.write_dev_record(folder / "dev.json", record)


@contextlib.contextmanager
def _signals(supervisor: Supervisor) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end `serve`; a second one ends the wait for the children."""

    def handle(signum: int, frame: object) -> None:
        if seen:
            supervisor.hurry()
        seen.append(signum)
        supervisor.interrupt()

    seen: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
