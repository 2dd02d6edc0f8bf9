"""docs/explanation/hazards.md names every hazard of the design, and tests that are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "explanation" / "hazards.md"
HAZARDS = 34


def rows() -> dict[int, list[str]]:
    """The cells of each row of the table, by the number of its hazard."""
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| H\d+ \|", line)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    numbers = [int(row[0].removeprefix("H")) for row in cells]
    assert numbers == sorted(set(numbers)), "each hazard once, in order"
    return dict(zip(numbers, cells, strict=True))


@cache
def names_in(path: str) -> frozenset[str]:
    """The test functions of a file."""
    found = ast.parse((TESTS / path).read_text()).body
    return frozenset(node.name for node in found if isinstance(node, ast.FunctionDef))


def named(cell: str) -> list[tuple[str, str]]:
    """The tests that a cell names."""
    tests = re.findall(r"`([^`]+)`", cell)
    assert re.sub(r"`[^`]+`|\s", "", cell) == "", f"only tests belong here: {cell}"
    return [(path, name) for path, _, name in (test.partition("::") for test in tests)]


def test_every_hazard_has_a_row() -> None:
    assert list(rows()) == list(range(1, HAZARDS + 1))
    assert all(len(row) == 4 and all(row) for row in rows().values())


@pytest.mark.parametrize("number", range(1, HAZARDS + 1))
def test_the_tests_of_a_hazard_are_there(number: int) -> None:
    tests = named(rows()[number][3])
    assert tests
    assert [f"{path}::{name}" for path, name in tests if name not in names_in(path)] == []


def test_every_test_of_this_folder_is_in_the_row_of_its_hazard() -> None:
    """A test that carries a number is named in that row, so that none is forgotten or filed wrongly."""
    for file in sorted(Path(__file__).parent.glob("test_h_*.py")):
        path = f"hazards/{file.name}"
        for name in names_in(path):
            if found := re.match(r"test_h(\d\d)_", name):
                assert (path, name) in named(rows()[int(found[1])][3]), name
            else:
                assert not name.startswith("test_") or name.startswith("test_h_"), name
