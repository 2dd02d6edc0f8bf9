"""The reference pages name every setting, command and event kind there is, and none that there is not."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from celeriac.celery_app.settings import Settings
from celeriac.cli.exits import Exit
from celeriac.cli.main import cli
from celeriac.orchestrations import history

DOCS = Path(__file__).parents[2] / "docs" / "reference"


def first_column(page: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)`", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_setting_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| ([^|]*) \|",
        (DOCS / "settings.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    documented = {field: (variable, default.strip("` ")) for variable, field, default in rows}
    assert set(documented) == {f.name for f in fields(Settings)}
    assert {v for v, _ in documented.values()} == set(Settings().environment())
    for field in fields(Settings):
        value = getattr(Settings(), field.name)
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        assert documented[field.name][1] == (shown if value not in ((), "") else "none")


def test_every_command() -> None:
    commands = set(cli.commands)
    nested = {f"{n} {s}" for n in cli.commands for s in getattr(cli.commands[n], "commands", {})}
    groups = {n.split()[0] for n in nested}
    documented = {re.sub(r" [\[A-Z].*", "", row) for row in first_column("cli.md")}
    assert documented == (commands - groups) | nested


def test_every_option_of_every_command() -> None:
    """Those that all commands have stand above the table."""
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    rows = {
        re.sub(r" [\[A-Z].*", "", name): row
        for name, row in re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.M)
    }
    everywhere = {"--app", "--redis", "--hub", "--json", "--help"}
    for name, row in rows.items():
        command: Any = cli
        for word in name.split():
            command = command.commands[word]
        options = {max(p.opts, key=len) for p in command.params if isinstance(p, click.Option)} - everywhere
        said = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", row)) - everywhere
        assert said == options, name


def test_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \|", (DOCS / "cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(code) for code in rows] == list(Exit)


def test_every_event_kind_with_its_number() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `(\w+)`", (DOCS / "history.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    kinds = {
        str(kind.__struct_config__.tag): kind.__name__
        for kind in vars(history).values()
        if isinstance(kind, type) and issubclass(kind, history.Event) and kind is not history.Event
    }
    assert dict(rows) == kinds
