"""The commands about instances: start them, look at them, act on them."""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from .common import (
    Common,
    Given,
    JsonInput,
    Moment,
    Seconds,
    fail,
    json_option,
    parse_tags,
    pass_common,
    print_json,
    start_time,
    warn,
)
from .exits import Exit

if TYPE_CHECKING:
    from celeriac.celery_app.client.sync import Client, OrchestrationState
    from celeriac.celery_app.settings import Settings

STATUSES = ("Pending", "Running", "Suspended", "Completed", "Failed", "Terminated", "Cancelled")

input_option = click.option(
    "-i", "--input", "given", type=JsonInput(), help="The input: JSON, @file with JSON, or - for stdin."
)
timeout_option = click.option("--timeout", type=Seconds(), help="Give up waiting after this long (exit 124).")
reason_option = click.option("--reason", default="", metavar="TEXT", help="Kept with the instance.")


@click.command()
@click.argument("name")
@input_option
@click.option(
    "--id",
    "instance_id",
    metavar="ID",
    help="The instance's id; a random one otherwise. A finished instance with it is replaced.",
)
@click.option("--version", metavar="V", help="This version of the orchestrator; the newest otherwise.")
@click.option(
    "--tag", "tags", metavar="KEY=VALUE", multiple=True, callback=parse_tags, help="May be repeated."
)
@click.option("--at", type=Moment(), help="Start at this time (ISO 8601; local when it has no offset).")
@click.option("--delay", type=Seconds(), help="Start after this long: 30s, 5m, 2h.")
@click.option("--idempotency-key", metavar="KEY", help="Under one key only the first start counts.")
@click.option(
    "--on-conflict",
    type=click.Choice(["fail", "use_existing", "terminate_existing"]),
    default="fail",
    help="When an instance with this id still runs.  [default: fail]",
)
@click.option(
    "--wait", is_flag=True, help="Wait for its end: exit 0 if Completed, 1 if not, 124 on --timeout."
)
@timeout_option
@json_option
@pass_common
def start(
    common: Common,
    name: str,
    given: Given | None,
    instance_id: str | None,
    version: str | None,
    tags: dict[str, str],
    at: datetime | None,
    delay: float | None,
    idempotency_key: str | None,
    on_conflict: Any,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Start an instance of the orchestrator NAME; prints its id.

    \b
    celeriac start backup_site -i '{"root": ".", "backup_dir": "backup"}' --id first
    celeriac start backup_site -i @request.json --wait --timeout 1m --json
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait")
    start_at = start_time(at, delay)
    with common.client() as client:
        _load_modules(common, client.settings)
        started = client.start(
            name,
            given.value if given else None,
            instance_id=instance_id,
            idempotency_key=idempotency_key,
            start_at=start_at,
            version=version,
            tags=tags,
            on_conflict=on_conflict,
        )
        warn_if_idle(client)
        if wait:
            return _await(client, started, timeout, as_json)
        if as_json:
            print_json(client.get(started).to_payload())
        else:
            click.echo(started)
    return Exit.OK


def _load_modules(common: Common, settings: Settings) -> None:
    """Import the modules: they know the names, and the type that an input has to fit.

    Those that only a running `celeriac dev` names need not be importable here: that is a warning.
    """
    if not settings.apps:
        return
    from celeriac.celery_app.app import load_apps
    from celeriac.orchestrations.errors import InvalidArgumentError

    try:
        # What a module prints must not mix with the id that we print.
        with contextlib.redirect_stdout(sys.stderr):
            load_apps(settings.apps, settings.app_folder)
    except InvalidArgumentError as error:
        if common.settings(beside_dev=False).apps:
            raise
        warn(f"the input is not checked here, only by `celeriac dev`: {error}")


def warn_if_idle(client: Client) -> None:
    """Say so when nobody is there to do the work."""
    kinds = {process.kind for process in client.workers()}
    hint = "start one with `celeriac dev`, or `celeriac {}`"
    if "orchestrator" not in kinds:
        warn(f"no orchestrator worker is alive, so nothing goes on; {hint.format('orchestrator')}")
    elif "worker" not in kinds:
        warn(f"no activity worker is alive, so activities wait; {hint.format('worker')}")


def _await(client: Client, instance_id: str, timeout: float | None, as_json: bool) -> int:
    """Wait for the end, print the instance, and return the exit code that its status means."""
    try:
        state = client.wait(instance_id, timeout)
    except TimeoutError:
        if as_json:
            print_json(client.get(instance_id).to_payload())
        text = f"{instance_id} has not ended within {timeout:g} s; it goes on: celeriac wait {instance_id}"
        fail(text, Exit.TIMEOUT)
    except KeyboardInterrupt:
        click.echo(f"\nNot waiting any longer; {instance_id} goes on: celeriac wait {instance_id}", err=True)
        return Exit.INTERRUPTED
    show(state, as_json)
    return Exit.OK if state.status == "Completed" else Exit.FAILED


def show(state: OrchestrationState, as_json: bool) -> None:
    """Print one instance."""
    if as_json:
        print_json(state.to_payload())
        return
    from . import render

    render.show_state(render.console(), state)


@click.command()
@click.argument("instance_id", metavar="ID")
@json_option
@pass_common
def status(common: Common, instance_id: str, as_json: bool) -> None:
    """Show one instance, and what it does now."""
    with common.client() as client:
        state = client.get(instance_id)
        if as_json or state.is_final:
            show(state, as_json)
            return
        from . import render
        from .trees import steps_of

        render.show_state(render.console(), state, steps_of(client.progress(instance_id, depth=1)))
        if state.status == "Pending":
            warn_if_idle(client)


@click.command(name="list")
@click.option("--status", "statuses", type=click.Choice(STATUSES, case_sensitive=False), multiple=True)
@click.option("--name", metavar="NAME", help="Of this orchestrator.")
@click.option("--prefix", metavar="TEXT", help="Whose id begins so.")
@click.option("--tag", metavar="KEY=VALUE")
@click.option("--from", "created_from", type=Moment(), help="Created at or after.")
@click.option("--to", "created_to", type=Moment(), help="Created before.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", default="", metavar="CURSOR", help="Where the page before ended.")
@click.option("--all", "everything", is_flag=True, help="Every page.")
@json_option
@pass_common
def list_(
    common: Common,
    statuses: tuple[str, ...],
    limit: int,
    cursor: str,
    everything: bool,
    as_json: bool,
    **conditions: Any,
) -> None:
    """List instances, newest first."""
    conditions["status"] = statuses or None
    with common.client() as client:
        if everything:
            states, cursor = list(client.iterate(**conditions)), ""
        else:
            page = client.list(limit=limit, cursor=cursor, **conditions)
            states, cursor = page.items, page.cursor
        if as_json:
            print_json({"instances": [state.to_payload() for state in states], "cursor": cursor or None})
        elif states:
            from . import render

            out = render.console()
            out.print(render.state_table(states, out.width))
        else:
            click.echo(
                "No instances." if not any(conditions.values()) else "No instances meet this.", err=True
            )
        if cursor and not as_json:
            click.echo(f"There are more: --cursor {cursor}, or --all", err=True)


@click.command()
@click.argument("instance_id", metavar="ID")
@timeout_option
@json_option
@pass_common
def wait(common: Common, instance_id: str, timeout: float | None, as_json: bool) -> int:
    """Wait until an instance has ended.

    Exits 0 if it Completed, 1 if it ended otherwise, 124 on --timeout.
    """
    with common.client() as client:
        return _await(client, instance_id, timeout, as_json)


@click.command()
@click.argument("instance_id", metavar="ID")
@click.option(
    "--record", is_flag=True, help="Print it with all it refers to, as testing.replay_history reads it."
)
@json_option
@pass_common
def history(common: Common, instance_id: str, record: bool, as_json: bool) -> None:
    """Show what happened to an instance, event by event."""
    with common.client() as client:
        if record:
            click.echo(client.record(instance_id).to_json())
            return
        events = client.history(instance_id)
    from . import histories

    if as_json:
        print_json([histories.to_payload(event) for event in events])
    else:
        histories.show(events)


@click.command(name="raise-event")
@click.argument("instance_id", metavar="ID")
@click.argument("name")
@input_option
@click.option("--dedup-key", metavar="KEY", help="Deliver once under this key.")
@pass_common
def raise_event(
    common: Common, instance_id: str, name: str, given: Given | None, dedup_key: str | None
) -> None:
    """Send the event NAME to a running instance.

    \b
    celeriac raise-event expense-7 Approved -i '{"by": "Ada"}'
    """
    with common.client() as client:
        client.raise_event(instance_id, name, given.value if given else None, dedup_key=dedup_key)
    click.echo(f"Event {name} sent to {instance_id}.", err=True)


def _verb(name: str, done: str, text: str, same: str = "") -> click.Command:
    """A command that does one thing to one instance; `same` is said when nothing changed."""

    @click.command(name=name, help=text)
    @click.argument("instance_id", metavar="ID")
    @reason_option
    @pass_common
    def command(common: Common, instance_id: str, reason: str) -> None:
        with common.client() as client:
            changed = getattr(client, name)(instance_id, reason)
        click.echo(f"{instance_id}: {same if changed is False else done}.", err=True)

    return command


suspend = _verb(
    "suspend", "suspended", "Hold an instance: what arrives is kept until resume.", "was suspended already"
)
resume = _verb("resume", "resumed", "Let a suspended instance go on.", "was not suspended")
cancel = _verb(
    "cancel",
    "asked to cancel",
    "Ask an instance to stop; its code can undo what it did.",
    "was asked to cancel already",
)
terminate = _verb("terminate", "terminated", "End an instance at once, its children too.")


@click.command()
@click.argument("instance_id", metavar="ID")
@click.option("--new-id", is_flag=True, help="Under a new, random id.")
@click.option("--as", "other_id", metavar="ID", help="Under this id.")
@reason_option
@pass_common
def restart(common: Common, instance_id: str, new_id: bool, other_id: str | None, reason: str) -> None:
    """Run a finished instance again; prints the id.

    Under its own id the finished run, its output and its history are replaced.
    """
    if new_id and other_id:
        raise click.UsageError("--new-id and --as exclude each other")
    with common.client() as client:
        click.echo(client.restart(instance_id, other_id or new_id, reason))


@click.command()
@click.argument("instance_id", metavar="[ID]", required=False)
@click.option("--status", "statuses", type=click.Choice(STATUSES[3:], case_sensitive=False), multiple=True)
@click.option("--name", metavar="NAME", help="Of this orchestrator.")
@click.option("--prefix", metavar="TEXT", help="Whose id begins so.")
@click.option("--tag", metavar="KEY=VALUE")
@click.option("--from", "created_from", type=Moment(), help="Created at or after.")
@click.option("--to", "created_to", type=Moment(), help="Created before.")
@click.option("--all", "everything", is_flag=True, help="Every finished instance.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--reason", default="", metavar="TEXT", help="Said with the result: nothing stays that could keep it."
)
@pass_common
def purge(
    common: Common,
    instance_id: str | None,
    statuses: tuple[str, ...],
    everything: bool,
    yes: bool,
    reason: str,
    **conditions: Any,
) -> None:
    """Remove finished instances.

    One by its ID, or all that meet conditions; always with their children.
    """
    conditions["status"] = statuses or None
    filtered = any(conditions.values())
    if (instance_id is not None) + filtered + everything != 1:
        raise click.UsageError("give an ID, or conditions, or --all")
    if instance_id is None and not yes:
        what = "every finished instance" if everything else "the finished instances that meet this"
        if not click.confirm(f"Remove {what} for good?", err=True):
            fail("nothing was removed", Exit.FAILED)
    if everything:
        conditions["status"] = STATUSES[3:]
    with common.client() as client:
        if instance_id:
            count = client.purge(instance_id, reason=reason)
        else:
            count = client.purge(**conditions, reason=reason)
    said = f"Removed {count} instance{'' if count == 1 else 's'}"
    click.echo(f"{said}: {reason}" if reason else f"{said}.", err=True)


COMMANDS = (
    start,
    status,
    list_,
    wait,
    history,
    raise_event,
    suspend,
    resume,
    cancel,
    terminate,
    restart,
    purge,
)
