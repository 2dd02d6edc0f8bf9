"""The commands about trigger queues."""

from __future__ import annotations

import click

from .common import Common, Given, JsonInput, json_option, pass_common, print_json, warn
from .exits import Exit


@click.group()
def queue() -> None:
    """Trigger queues: push a message, see and redrive the poisoned."""


@queue.command()
@click.argument("name", metavar="QUEUE")
@click.option(
    "-i", "--input", "given", type=JsonInput(), required=True, help="The message: JSON, @file or -."
)
@pass_common
def push(common: Common, name: str, given: Given) -> None:
    """Put a message into a queue; a listener starts an instance with it."""
    with common.client() as client:
        waiting = client.push(name, given.value)
        listened = {queue for p in client.workers() if p.kind == "listener" for queue in p.info["queues"]}
    if name not in listened:
        known = f" (they listen to {', '.join(sorted(listened))})" if listened else ""
        warn(f"no living orchestrator listens to {name}{known}, so the message waits; is the name right?")
    click.echo(f"{waiting} message{'' if waiting == 1 else 's'} in {name}.", err=True)


@queue.command()
@click.argument("name", metavar="QUEUE")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@json_option
@pass_common
def poison(common: Common, name: str, limit: int, as_json: bool) -> None:
    """Show the messages that were given up, and why."""
    with common.client() as client:
        messages = client.poison(name, limit=limit)
    if as_json:
        print_json([message.to_payload() for message in messages])
        return
    if not messages:
        click.echo(f"No poison messages in {name}.", err=True)
        return
    from . import render

    render.console().print(render.poison_table(messages))


@queue.command()
@click.argument("name", metavar="QUEUE")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True)
@pass_common
def redrive(common: Common, name: str, limit: int) -> int:
    """Put the poison messages back into the queue, with a fresh count of tries."""
    with common.client() as client:
        count = client.redrive(name, limit=limit)
    click.echo(f"{count} message{'' if count == 1 else 's'} put back into {name}.", err=True)
    return Exit.OK
