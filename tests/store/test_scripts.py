"""The loader, the key table, and laws that every script file keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from celeriac.celery_app.store import Keys, records, scripts, wire
from celeriac.celery_app.store.keys import KEYS
from celeriac.celery_app.store.scripts import script

LUA = Path(scripts.__file__).parent / "lua"
FILES = sorted(LUA.glob("*.lua"))
INCLUDED = {
    word
    for f in FILES
    for line in re.findall(r"^-- include: (.*)$", f.read_text(), re.M)
    for word in line.split()
}


def test_a_call_that_does_not_match_its_script_is_refused() -> None:
    with pytest.raises(TypeError, match="missing arguments: limit; unknown: size"):
        script("fire_timers").call(Keys(), size=1, now=0)
    with pytest.raises(TypeError, match="str argument"):
        script("get").call(Keys(), instance=5)


def test_keys_are_passed_as_keys_and_families_as_prefixes() -> None:
    call = script("claim").call(Keys("h"), incarnation="o1", n_base=1, limit=2, now=0)
    assert call.args[:3] == (2, "h:ready", "h:beats")
    assert set(call.args[3:8]) == {"h:inst:", "h:hist:", "h:inbox:", "h:control:", "h:claims:"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_script_compiles_within_the_limits_of_lua(path: Path, desk: Any) -> None:
    made = script(path.stem)
    desk.store.client.script_load(made.source)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_no_script_searches_the_database_or_builds_a_key_by_itself(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"redis\.p?call\('(KEYS|SCAN|FLUSHALL|FLUSHDB|EVAL)'", text, re.I)
    assert "celeriac:" not in text
    for name in re.findall(r"redis\.p?call\('[A-Z]+',\s*'", text):
        raise AssertionError(f"a literal key after {name}")


def test_families_are_told_apart_from_keys() -> None:
    keys = Keys("h")
    for name, kind in KEYS.items():
        if kind.family:
            assert keys.kind_of(keys.of(name, "x:y")) == (kind, "x:y")
        else:
            assert keys.kind_of(keys.path(name)) == (kind, "")
            with pytest.raises(KeyError):
                keys.of(name, "x")
    assert keys.kind_of("other:ready") is None
    assert keys.kind_of("h:nonsense") is None


def test_values_arrive_in_lua_as_they_are(desk: Any) -> None:
    class Shape(msgspec.Struct, omit_defaults=True):
        name: bytes
        empty: str = ""
        items: list[int] = []

    blobs = [b"", b"\xff\x00", b"x" * 31, b"x" * 32, b"x" * 70_000]
    for blob in blobs:
        echo = "return cmsgpack.unpack(ARGV[1])[1]"
        assert desk.store.client.eval(echo, 0, wire.pack([blob])) == blob
    source = (
        "local v = cmsgpack.unpack(ARGV[1]); return {v.name, v.empty == nil and 1 or 0, #v.items, v.items[2]}"
    )
    for empty in ("", "x"[1:], b"".decode(), "".join(str(n) for n in range(0))):
        packed = wire.pack(Shape(b"\xfe", empty, [1, 1_700_000_000_000]))
        assert desk.store.client.eval(source, 0, packed) == [b"\xfe", 1, 2, 1_700_000_000_000]


def test_what_scripts_read_leaves_its_defaults_out() -> None:
    """They test for nil: see records.py."""
    packed = [records.StartRequest, records.ChildStart, records.Send, records.NextRun, records.Commit]
    packed += [records.Deadline, records.OpenedStep, records.GroupOpen, records.GroupEmit]
    for cls in packed:
        config = cls.__struct_config__
        assert config.omit_defaults or config.array_like, cls


def test_the_protocol_page_names_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "protocol.md").read_text()
    missing = [k.path for k in KEYS.values() if f"{{h}}:{k.path}" not in page]
    assert not missing, "docs/explanation/protocol.md does not name: " + ", ".join(missing)
