"""Files and functions stay small enough to be read in one go. The limits only ever go down."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE_LINES = 400
FUNCTION_LINES = 60
BRANCHES = 12
SOURCES = ("orchestrations", "activities", "celery_app", "cli", "benchmarks", "tests")
BRANCH = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.BoolOp,
          ast.comprehension, ast.match_case)  # fmt: skip


def files() -> list[Path]:
    found = [f for d in SOURCES for f in sorted((ROOT / d).rglob("*.py"))]
    assert len(found) > 20
    return found


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            branches = 1 + sum(isinstance(n, BRANCH) for n in ast.walk(node))
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", lines, branches


def test_no_file_is_too_long() -> None:
    lines = {str(f.relative_to(ROOT)): f.read_text(encoding="utf-8").count("\n") for f in files()}
    lua = {str(f.relative_to(ROOT)): f.read_text().count("\n") for f in (ROOT / "celery_app").rglob("*.lua")}
    assert {f: n for f, n in (lines | lua).items() if n > FILE_LINES} == {}


def test_no_function_is_too_long() -> None:
    assert [(name, lines) for f in files() for name, lines, _ in functions(f) if lines > FUNCTION_LINES] == []


def test_no_function_of_the_product_branches_too_much() -> None:
    product = [f for f in files() if f.relative_to(ROOT).parts[0] not in ("tests", "benchmarks")]
    assert [(name, n) for f in product for name, _, n in functions(f) if n > BRANCHES] == []


def test_every_module_of_the_product_says_what_it_promises() -> None:
    product = [f for f in files() if f.relative_to(ROOT).parts[0] != "tests" and f.stat().st_size]
    silent = [str(f.relative_to(ROOT)) for f in product if not ast.get_docstring(ast.parse(f.read_text()))]
    assert silent == []
