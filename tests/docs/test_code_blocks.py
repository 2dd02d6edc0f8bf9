"""The code in the docs runs, and the commands in the docs exist.

The Python blocks of one page, in order, are one module, run in a process of its own (decorators register
names for the whole process, and two pages may both have an `order`). Every `$ celeriac ...` line must parse:
a real command with real options.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from celeriac.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [code for lang, code in BLOCK.findall(page.read_text(encoding="utf-8")) if lang == language]


def commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                words = shlex.split(line[2:].partition(" > ")[0], comments=True)
                if words and words[0] == "celeriac":
                    yield words[1:]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    module = tmp_path / "page.py"
    module.write_text("\n\n".join(blocks(page, "python")), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import page"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [p for p in PAGES if list(commands(p))], ids=name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for words in commands(page):
        check(cli, list(words), page)


def check(group: click.Command, words: list[str], page: Path) -> None:
    """Walk down the groups and let click parse the rest, without running anything."""
    context = click.Context(group, info_name="celeriac")
    while isinstance(group, click.Group):
        assert words, f"{name(page)}: a command is missing after {group.name}"
        found = group.get_command(context, words[0])
        assert found is not None, f"{name(page)}: there is no command {words[0]!r}"
        group, words = found, words[1:]
    try:
        group.make_context(group.name, words, parent=context, resilient_parsing=False)
    except click.ClickException as error:
        pytest.fail(f"{name(page)}: celeriac {group.name} {shlex.join(words)}: {error.format_message()}")


LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
