"""Limits of values and failures, each at its boundary."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from celeriac.cli.common import parse_json
from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import (
    MAX_INNER_STACK_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_PROPERTIES_CHARS,
    MAX_STACK_CHARS,
    OMITTED,
    CodecError,
    failure_from,
)


def nested(depth: int, inside: Any = '[{"[') -> Any:
    """A value with `depth` lists and objects within each other, and brackets in texts, which do not count."""
    value = inside
    for n in range(depth):
        value = [value, "]"] if n % 2 else {"a\\": value, "}": '\\"'}
    return value


def test_64_levels_are_written_and_read_and_65_are_not() -> None:
    good, bad = nested(codec.MAX_DEPTH), nested(codec.MAX_DEPTH + 1)
    text = codec.encode(good)
    assert codec.decode(text) == good
    with pytest.raises(CodecError, match="nested too deeply"):
        codec.encode(bad)
    with pytest.raises(CodecError, match="nested too deeply"):
        codec.decode(msgspec.json.encode(bad).decode())


def act(value: Any) -> None:
    """Takes anything."""


def test_an_argument_may_be_as_deep_as_a_value() -> None:
    text = codec.encode_call((nested(codec.MAX_DEPTH),), {})
    assert codec.decode_call(text, act)[0] == [nested(codec.MAX_DEPTH)]
    with pytest.raises(CodecError, match="nested too deeply"):
        codec.encode_call((nested(codec.MAX_DEPTH + 1),), {})


@pytest.mark.parametrize("depth", [900, 100_000])
def test_a_bomb_of_brackets_is_an_ordinary_refusal(depth: int) -> None:
    text = "[" * depth + "]" * depth
    with pytest.raises(CodecError, match="nested too deeply"):
        codec.decode(text)
    with pytest.raises(CodecError, match="nested too deeply"):
        codec.decode_call(f"[[{text}],{{}}]", act)


def test_wide_is_not_deep() -> None:
    value = [{"a": [n]} for n in range(10_000)]
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '[{"b":{"a":1,"c":2,"a":1}}]'])
def test_a_key_that_stands_there_twice_is_refused_where_json_is_not_ours(text: str) -> None:
    with pytest.raises(CodecError, match="the key 'a' twice"):
        codec.decode_foreign(text)
    with pytest.raises(ValueError, match="the key 'a' twice"):
        parse_json(text)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a":-Infinity}'])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(CodecError):
        codec.decode_foreign(text)
    with pytest.raises(ValueError):  # noqa: PT011  any text of json's
        parse_json(text)


def raised(error: Exception, depth: int = 0) -> Exception:
    def deeper(n: int, m: int) -> None:
        exec(f"def f{n}(n, m):\n    deeper(n - 1, m)", names := {"deeper": deeper})
        if n:
            names[f"f{n}"](n, m)
        raise error

    try:
        deeper(depth, 0)
    except Exception as caught:  # noqa: BLE001
        return caught
    raise AssertionError


def test_a_failure_is_bounded_in_every_part() -> None:
    long = Exception("x" * (MAX_MESSAGE_CHARS + 1))
    assert len(failure_from(long).message) == MAX_MESSAGE_CHARS
    inner = raised(ValueError("inner"), 120)
    outer = raised(ValueError("outer"), 250)
    outer.__cause__ = inner
    failure = failure_from(outer)
    assert len(failure.stack_trace) == MAX_STACK_CHARS
    assert failure.inner is not None
    assert len(failure.inner.stack_trace) == MAX_INNER_STACK_CHARS


def test_properties_that_do_not_fit_are_named() -> None:
    error = ValueError("with properties")
    room = MAX_PROPERTIES_CHARS - len("big") - 2  # its quotes
    error.properties = {"big": "x" * room}  # pyright: ignore[reportAttributeAccessIssue]
    assert failure_from(error).properties == {"big": "x" * room}
    error.properties = {"big": "x" * (room + 1), "n": 1}  # pyright: ignore[reportAttributeAccessIssue]
    assert failure_from(error).properties == {"n": 1, OMITTED: ["big"]}
