"""The cache of live executions: bounded, and never gives one that the store has moved past."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.orchestrator.cache import Live, LiveCache
from celeriac.celery_app.orchestrator.payloads import Aside, RunPayloads, fields_of, join_chunks
from celeriac.celery_app.sealing import PLAIN
from celeriac.orchestrations.errors import PayloadTooLargeError
from celeriac.orchestrations.history import ExecutionStarted, Part, PartOutcome
from celeriac.orchestrations.registry import define
from celeriac.orchestrations.replay import Execution


async def waits(ctx: Any) -> None:
    await ctx.wait_for_external_event("never")


def no_texts(run: str, fields: Any) -> list[str]:
    raise AssertionError(f"nothing is to be read of {run}")


def no_outcomes(run: str, seq: int, size: int) -> list[PartOutcome]:
    raise AssertionError(f"nothing is to be read of {run}")


def live(run: str, last: str) -> Live:
    payloads = RunPayloads(run, no_texts, no_outcomes)
    started = ExecutionStarted(execution=run, instance="i", name="waits")
    execution = Execution(define(waits), payloads)
    execution.advance([started])
    return Live(run, last, started, execution, payloads)


@pytest.mark.parametrize(
    ("run", "length", "last", "hit"),
    [
        ("r1", 1, "t", True),
        ("r2", 1, "t", False),
        ("r1", 2, "t", False),
        ("r1", 0, "t", False),
        ("r1", 1, "u", False),
    ],
)
def test_only_the_same_run_length_and_last_commit(run: str, length: int, last: str, hit: bool) -> None:
    dropped: list[str] = []
    cache = LiveCache(10, lambda instance, _: dropped.append(instance))
    cache.put("i", live("r1", "t"))
    assert (cache.take("i", run, length, last) is not None) == hit
    assert (cache.hits, cache.misses) == (int(hit), int(not hit))
    assert dropped == ([] if hit else ["i"])
    assert len(cache) == 0  # taken or dropped: either way it has to be put again


def test_the_least_recently_used_goes_first() -> None:
    dropped: list[str] = []
    cache = LiveCache(2, lambda instance, _: dropped.append(instance))
    for name in ("a", "b", "a", "c"):
        cache.put(name, live(name, ""))
    assert dropped == ["b"]
    cache.clear()
    assert sorted(dropped) == ["a", "b", "c"]
    assert len(cache) == 0


def test_what_is_put_aside() -> None:
    aside = Aside(over=1000, limit=5000, seal=PLAIN)
    assert aside.put(None, "f", "it") is None
    assert aside.put('"small"', "f", "it") == '"small"'
    assert aside.put("@ref", "f", "it") == "@ref"
    assert aside.put("é" * 600, "f", "it") == "@f"  # bytes count, not characters
    assert {field: PLAIN.unpack(blob) for field, blob in aside.staged.items()} == {"f": "é" * 600}
    with pytest.raises(PayloadTooLargeError, match="the thing is 6,000 bytes"):
        aside.put("x" * 6000, "g", "the thing")


def test_parts_in_chunks_join_to_the_same_text() -> None:
    aside = Aside(over=100, limit=5000, seal=PLAIN)
    parts = [Part("add", f"[[{n}],{{}}]") for n in range(2500)]
    ref = aside.put_parts(parts, "p7c")
    assert ref == "@p7c*3"
    assert fields_of(ref) == ["p7c.0", "p7c.1", "p7c.2"]
    whole = Aside(over=10**9, limit=10**9, seal=PLAIN).put_parts(parts[:1000], "p")
    assert PLAIN.unpack(aside.staged["p7c.0"]) == whole
    texts = {field: PLAIN.unpack(blob) for field, blob in aside.staged.items()}
    text = join_chunks([texts[field] for field in fields_of(ref)])
    assert text.startswith('[["add","[[0],{}]",0],["add"')
    assert text.endswith('["add","[[2499],{}]",0]]')
    payloads = RunPayloads("r", no_texts, no_outcomes)
    payloads.give(texts)
    assert payloads.text(ref) == text
