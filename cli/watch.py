"""`celeriac watch`: an instance, its children and what runs, live until it has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from .common import Common, json_option, pass_common, print_json
from .exits import Exit

if TYPE_CHECKING:
    from rich.console import Console

    from celeriac.celery_app.client.sync import Client, InstanceProgress

LOOK_SECONDS: Final = 0.5  # how often the tree is read; its end is noticed at once


@click.command()
@click.argument("instance_id", metavar="ID")
@click.option("--depth", type=click.IntRange(0, 32), default=8, show_default=True, help="Levels of children.")
@click.option("--plain", is_flag=True, help="Changes as lines, as when the output is piped.")
@json_option
@pass_common
def watch(common: Common, instance_id: str, depth: int, plain: bool, as_json: bool) -> int:
    """Watch an instance until it ends.

    Shows its children and running activities, live. As JSON: one line with the whole tree for each change.

    Exits 0 if it Completed, 1 if it ended otherwise.
    """
    from . import render
    from .instances import warn_if_idle

    out = render.console()
    with common.client() as client:
        client.get(instance_id)  # a bad id or one of no instance is the first thing to say
        warn_if_idle(client)
        show = _json if as_json else _live if out.is_terminal and not plain else _lines
        try:
            last = show(client, instance_id, depth, out)
        except KeyboardInterrupt:
            click.echo(f"\nNot watching any longer; {instance_id} goes on.", err=True)
            return Exit.INTERRUPTED
        if last.state.is_final and show is _live:
            render.show_state(out, last.state)
    return Exit.OK if last.state.status == "Completed" else Exit.FAILED


def _looks(client: Client, instance_id: str, depth: int) -> Iterator[InstanceProgress]:
    """The tree again and again, ending with the first that shows the instance ended."""
    while True:
        started = time.monotonic()
        tree = client.progress(instance_id, depth=depth)
        yield tree
        if tree.state.is_final:
            return
        try:
            client.wait(instance_id, max(0.05, LOOK_SECONDS - (time.monotonic() - started)))
        except TimeoutError:
            continue  # not ended yet: look again


def _live(client: Client, instance_id: str, depth: int, out: Console) -> InstanceProgress:
    from rich.live import Live

    from .trees import tree_of

    tree = None
    with Live(console=out, refresh_per_second=4, transient=True) as live:
        for tree in _looks(client, instance_id, depth):
            live.update(tree_of(tree, out.height - 2), refresh=True)
    assert tree is not None  # there is at least one look
    return tree


def _lines(client: Client, instance_id: str, depth: int, out: Console) -> InstanceProgress:
    from .trees import changes

    seen: dict[str, str] = {}
    tree = None
    for tree in _looks(client, instance_id, depth):
        stamp = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
        for line in changes(tree, seen):
            out.print(f"{stamp} {line}", markup=False)
    assert tree is not None  # there is at least one look
    return tree


def _json(client: Client, instance_id: str, depth: int, _: Console) -> InstanceProgress:
    said = tree = None
    for tree in _looks(client, instance_id, depth):
        if (payload := tree.to_payload()) != said:
            print_json(payload)
            said = payload
    assert tree is not None  # there is at least one look
    return tree
