"""Nothing that holds values of users passes by the seal: neither a new call nor a new field.

`celery_app/sealing.py` is the one way of events, outcomes, failures and payloads to Redis and back.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from celeriac.celery_app.sealing import kinds_of
from celeriac.orchestrations import history
from celeriac.orchestrations.errors import Attempt
from celeriac.orchestrations.history import AnyEvent, PartOutcome

ROOT = Path(__file__).parents[2]
SEALING = "celery_app/sealing.py"
# What writes or reads the JSON of events and payloads as it is, and where else that is right.
RAW = {
    "encode_event": {"celery_app/store/records.py"},
    "decode_event": {"celery_app/client/operations.py"},  # of a record: its input goes to `clear` alone
    "open_text": {"celery_app/store/records.py", "celery_app/store/turns.py"},  # the engine's own refusal
    "pack": set[str](),
    "unpack": set[str](),
}
# Fields with texts that are never sealed: they name things.
NAMES = {
    "at", "change", "depth", "detached", "due", "error_type", "execution", "failed", "instance", "name",
    "number", "delay", "options", "parent", "parent_close", "preserve_events", "rules", "run", "seq", "size",
    "tags", "version", "window",
}  # fmt: skip


def calls(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            yield node.lineno, name, node


def modules() -> list[tuple[str, Path]]:
    found = [(path.relative_to(ROOT).as_posix(), path) for path in (ROOT / "celery_app").rglob("*.py")]
    return [(name, path) for name, path in found if name != SEALING]


def test_only_the_seal_writes_and_reads_events_and_payloads() -> None:
    wrong = []
    for name, path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id in RAW and name not in RAW[node.id]:
                own = node.id in ("pack", "unpack") and name.startswith("celery_app/store/")
                wrong += [] if own else [(name, node.lineno, node.id)]
            raw = isinstance(node, ast.Attribute) and node.attr in ("pack", "unpack")
            if raw and isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("payloads", "records"):
                wrong.append((name, node.lineno, ast.unparse(node)))
    assert wrong == []


def test_a_run_is_started_only_with_a_sealed_event() -> None:
    starts = [
        (name, line, call)
        for name, path in modules()
        for line, what, call in calls(path)
        if what == "of" and ast.unparse(call.func).endswith(("StartRequest.of", "ChildStart.of"))
    ]
    assert len(starts) == 2
    assert [(n, line) for n, line, call in starts if "seal.sealed(" not in ast.unparse(call.args[0])] == []


def test_no_outcome_of_a_part_is_used_as_it_was_read() -> None:
    readers = {
        name for name, path in modules() for _, what, _ in calls(path)
        if what == "group_outcomes" and not name.startswith("celery_app/store/")
    }  # fmt: skip
    assert readers == {"celery_app/orchestrator/reading.py", "celery_app/client/recorder.py"}
    for name in readers:
        assert "seal.opened" in (ROOT / name).read_text()


@pytest.mark.parametrize("kind", [*AnyEvent.__args__, PartOutcome, Attempt], ids=lambda kind: kind.__name__)
def test_each_field_is_sealed_or_is_known_to_name_something(kind: type[msgspec.Struct]) -> None:
    """A new field fails here until somebody has decided."""
    sealed = {name for name, _ in kinds_of(kind)}
    assert set(kind.__struct_fields__) - sealed - NAMES == set()
    assert not sealed & NAMES


def test_there_is_an_event_for_each_way_to_seal() -> None:
    kinds = {how for kind in AnyEvent.__args__ for _, how in kinds_of(kind)}
    assert kinds == {"payload", "note", "failure", "attempts"}
    assert set(history.PAYLOAD_FIELDS) <= {
        name for kind in (*AnyEvent.__args__,) for name, _ in kinds_of(kind)
    }
