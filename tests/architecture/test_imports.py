"""Who may import whom. The house stands or falls with these directions, so they are tested.

A rule reads: files under `where` may import, of the project and of the IO libraries, only what is
listed. Anything else that a line imports (standard library, click, ...) is not this test's business.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrations", "activities", "celery_app", "cli")
IO_LIBRARIES = {"redis", "celery", "kombu", "billiard", "click", "rich"}


class Import(NamedTuple):
    file: str
    line: int
    module: str  # absolute, as `celeriac.package.module` for our own


class Rule(NamedTuple):
    where: str  # path prefix
    may: tuple[str, ...]  # module prefixes: of the project, or IO libraries
    but: tuple[str, ...] = ()  # path prefixes the rule does not hold for


RULES = [
    Rule("orchestrations/", ("celeriac.orchestrations",), but=("orchestrations/examples/",)),
    Rule("orchestrations/examples/", ("celeriac.orchestrations", "celeriac.activities")),
    Rule("activities/", ("celeriac.orchestrations", "celeriac.activities")),
    Rule("cli/", ("celeriac.cli", "celeriac.celery_app", "celeriac.orchestrations", "click", "rich")),
    Rule("celery_app/triggers/", ("celeriac.celery_app.client", "celeriac.celery_app.triggers",
                                  "celeriac.celery_app.settings", "celeriac.celery_app.complaints",
                                  "celeriac.orchestrations")),
]  # fmt: skip

# Only these may touch redis-py, and only these Celery and kombu.
REDIS = ("celery_app/store/", "celery_app/transport/")
NO_CELERY = ("celery_app/orchestrator/", "celery_app/store/", "celery_app/client/", "celery_app/triggers/",
             "celery_app/retrying.py", "celery_app/messages.py")  # fmt: skip


def imports_of(path: Path) -> Iterator[Import]:
    file = path.relative_to(ROOT).as_posix()
    package = ["celeriac", *path.relative_to(ROOT).with_suffix("").parts]
    if package[-1] == "__init__":
        package.pop()
        here = package
    else:
        here = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(file, node.lineno, f"{module}.{alias.name}")


ALL = [i for p in PACKAGES for f in sorted((ROOT / p).rglob("*.py")) for i in imports_of(f)]


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.where)
def test_a_folder_imports_only_what_its_rule_lists(rule: Rule) -> None:
    seen = [i for i in ALL if i.file.startswith(rule.where) and not i.file.startswith(rule.but or ("\0",))]
    assert seen, f"no imports found under {rule.where}: is the folder gone?"
    wrong = [
        i
        for i in seen
        if (i.module.startswith("celeriac.") or i.module.split(".")[0] in IO_LIBRARIES)
        and not within(i.module, rule.may)
    ]
    assert wrong == []


def test_only_the_store_and_the_transport_know_redis() -> None:
    assert [i for i in ALL if i.module.split(".")[0] == "redis" and not i.file.startswith(REDIS)] == []


def test_the_orchestrator_the_store_and_the_client_do_not_know_celery() -> None:
    known = {"celery", "kombu", "billiard"}
    assert [i for i in ALL if i.file.startswith(NO_CELERY) and i.module.split(".")[0] in known] == []


def test_nobody_imports_the_cli_the_tests_or_the_benchmarks() -> None:
    outside = [i for i in ALL if not i.file.startswith("cli/")]
    assert [i for i in outside if within(i.module, ("celeriac.cli", "tests", "benchmarks"))] == []


def test_nobody_imports_the_shipped_examples() -> None:
    inside = "orchestrations/examples/"
    users = [i for i in ALL if not i.file.startswith((inside, "cli/demo"))]
    assert [i for i in users if within(i.module, ("celeriac.orchestrations.examples",))] == []


def test_no_bare_import_makes_a_second_copy_of_a_package() -> None:
    """`import orchestrations` would load every class twice, and `isinstance` would lie."""
    everywhere = ALL + [
        i for d in ("tests", "benchmarks") for f in sorted((ROOT / d).rglob("*.py")) for i in imports_of(f)
    ]
    assert [i for i in everywhere if i.module.split(".")[0] in PACKAGES] == []
