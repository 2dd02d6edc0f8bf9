"""The code in the docs runs, and the commands in the docs exist.

The Python blocks of one page, in order, are one module, run in a process of its own (decorators register
names for the whole process, and two pages may both have an `order`). A block below `<!-- file: shop.py -->`
is a file of that name beside it instead: imported, or run by pytest when it is called test_*.py.
Every `$ celeriac ...` line must parse: a real command with real options.
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
FILED = re.compile(r"^(?:<!-- file: (\w+\.py) -->\n)?```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [code for lang, code in BLOCK.findall(page.read_text(encoding="utf-8")) if lang == language]


def files(page: Path) -> dict[str, str]:
    """The Python of a page by the file it stands in: one named by a marker, or page.py for all the rest."""
    found: dict[str, str] = {}
    for file, code in FILED.findall(page.read_text(encoding="utf-8")):
        assert file not in found or not file, f"{name(page)}: {file} is given twice"
        file = file or "page.py"
        found[file] = f"{found[file]}\n\n{code}" if file in found else code
    return found


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
    saved = files(page)
    for file, code in saved.items():
        (tmp_path / file).write_text(code, encoding="utf-8")
    tests = [file for file in saved if file.startswith("test_")]
    modules = [file.removesuffix(".py") for file in saved if file not in tests]
    runs_in(tmp_path, "-c", f"import {', '.join(modules)}")
    if tests:
        runs_in(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)


def runs_in(folder: Path, *words: str) -> None:
    """Run Python as a reader would, in the folder where the files of the page are."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / link).resolve() for link in LINK.findall(readme)}
    missed = [name(page) for page in PAGES[1:] if not linked & {page, page.parent}]
    assert missed == []
