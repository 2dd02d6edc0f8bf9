"""The command line: `celeriac`, its global options, and the one place that turns errors into exit codes.

Start-up is kept short: this module and the command modules import click and nothing heavy; Celery, redis
and rich come in when a command needs them.
"""

from __future__ import annotations

import difflib
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from .common import GLOBAL_OPTIONS, Common, FailedError, global_options
from .demo import demo
from .exits import MEANINGS, Exit
from .hiding import hide_password
from .instances import COMMANDS as INSTANCE_COMMANDS
from .processes import COMMANDS as PROCESS_COMMANDS
from .queues import queue
from .watch import watch

SECTIONS = {
    "Run it": ("demo", "dev", "orchestrator", "worker"),
    "Instances": ("start", "status", "list", "wait", "watch", "history"),
    "Act on an instance": (
        "raise-event", "suspend", "resume", "cancel", "terminate", "restart", "purge",
    ),
    "Queues and operations": ("queue", "workers", "doctor", "completion"),
}  # fmt: skip


def _version() -> str:
    try:
        return version("celeriac")
    except PackageNotFoundError:
        return "unknown (not installed)"


class Commands(click.Group):
    """The top group: commands in sections, and a suggestion for a mistyped one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else " See celeriac --help."
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            rows = [(n, c.get_short_help_str(70)) for n in names if (c := self.get_command(ctx, n))]
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), text) for code, text in MEANINGS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@global_options(*GLOBAL_OPTIONS)
@click.version_option(_version(), prog_name="celeriac")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Durable workflows as ordinary Python, on Celery and Redis.

    Try `celeriac demo`. Then `celeriac dev --app my.workflows` in one terminal, and in another
    `celeriac start NAME -i JSON --wait`.
    """
    ctx.ensure_object(Common)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    bash: put  eval "$(celeriac completion bash)"  into ~/.bashrc (zsh alike);
    fish: celeriac completion fish > ~/.config/fish/completions/celeriac.fish
    """
    from click.shell_completion import get_completion_class

    maker = get_completion_class(shell)
    if maker is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    if shell == "bash":
        # click's own `source` runs bash to learn its version, and warns where it is absent.
        click.echo(maker.source_template % maker(cli, {}, "celeriac", "_CELERIAC_COMPLETE").source_vars())
        return
    click.echo(maker(cli, {}, "celeriac", "_CELERIAC_COMPLETE").source())


for command in (*PROCESS_COMMANDS, *INSTANCE_COMMANDS, watch, queue, demo):
    cli.add_command(command)


def main(argv: list[str] | None = None) -> None:
    """The console script."""
    if argv is None:
        hide_password()
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code; errors are printed to stderr in plain words."""
    try:
        code = cli.main(argv, prog_name="celeriac", standalone_mode=False)
    except FailedError as error:
        _print_error(error.message)
        return error.code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`celeriac list | head`): not our error, and nobody to tell.
        sys.stdout = None
        return Exit.OK
    except Exception as error:
        known = _explain(error)
        if known is None:
            raise
        text, code = known
        _print_error(text)
        return code
    return code if isinstance(code, int) else Exit.OK


def _print_error(text: str) -> None:
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {text}", err=True)


def _explain(error: Exception) -> tuple[str, int] | None:
    """The words and the exit code for an error of ours; None for a bug, whose traceback is wanted."""
    from celeriac.celery_app.embedded import EmbeddedRedisError
    from celeriac.orchestrations.errors import AuthoringError, CeleriacError, ClientError

    if isinstance(error, ClientError):
        return f"{error}{_dev_hint(str(error))}", error.exit_code
    if isinstance(error, EmbeddedRedisError):
        return str(error), Exit.NO_REDIS
    if isinstance(error, AuthoringError):
        return str(error), Exit.USAGE
    if isinstance(error, CeleriacError):
        return str(error), Exit.FAILED
    return None


def _dev_hint(text: str) -> str:
    """Of a default Redis that is not there, in a folder where `celeriac dev` has run: that it is over."""
    from celeriac.celery_app.embedded import DEV_FOLDER
    from celeriac.celery_app.settings import DEFAULT_REDIS_URL

    here = Path.cwd()
    dev = next(
        (folder for folder in (here, *here.parents) if (folder / DEV_FOLDER / "dev.lock").exists()), None
    )
    if dev is None or f"{DEFAULT_REDIS_URL} does not answer" not in text:
        return ""
    return f".\nThe `celeriac dev` of {'this folder' if dev == here else dev} is not running"


if __name__ == "__main__":
    main()
