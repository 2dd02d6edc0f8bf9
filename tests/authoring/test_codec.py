"""Author values survive the way through JSON, and what cannot is refused by name."""

from __future__ import annotations

import enum
import math
import uuid
from collections.abc import Awaitable, Generator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import CodecError


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Item:
    name: str
    price: float


@dataclass
class Order:
    id: str
    items: list[Item] = field(default_factory=list)
    paid: bool = False


@dataclass
class OutOfStock:
    sku: str
    left: int


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int = 0


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    when: datetime
    price: Decimal
    lines: list[int] = []


class Other(pydantic.BaseModel):
    text: str = pydantic.Field(alias="theText")


@dataclass
class Holder:
    model: Model
    others: list[Other]
    maybe: Model | None = None


class Row(TypedDict):
    a: int


class Pair(NamedTuple):
    left: int
    right: str


WHEN = datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=UTC)
MODEL = Model(when=WHEN, price=Decimal("1.10"), lines=[1])

ROUND_TRIPS: list[tuple[Any, Any]] = [
    (None, None),
    (True, bool),
    ("ä\u2028€😀", str),
    (1.5, float),
    (2**63, int),
    (-(2**64) - 1, int),
    (10**300, int),
    (Order("o1", [Item("a", 1.0)], True), Order),
    ([Order("o1")], list[Order]),
    (Point(1, 2), Point),
    ([Cat("a"), Dog("b")], list[Cat | Dog]),
    (MODEL, Model),
    (Other(theText="x"), Other),
    (Holder(MODEL, [Other(theText="x")]), Holder),
    (Holder(MODEL, [], MODEL), Holder),
    (Colour.RED, Colour),
    (Level.LOW, Level),
    (WHEN, datetime),
    (date(2024, 1, 1), date),
    (timedelta(days=400, microseconds=1), timedelta),
    (Decimal("1.10"), Decimal),
    (uuid.UUID(int=7), uuid.UUID),
    (b"\x00\xff", bytes),
    ({1, 2}, set[int]),
    (frozenset({"a"}), frozenset[str]),
    ((1, "a", [2.5]), tuple[int, str, list[float]]),
    ((1, 2, 3), tuple[int, ...]),
    (Pair(1, "b"), Pair),
    ({1: "a", -2: "b"}, dict[int, str]),
    ({Colour.RED: [Level.LOW]}, dict[Colour, list[Level]]),
    ({uuid.UUID(int=1): {date(2024, 1, 1): 1}}, dict[uuid.UUID, dict[date, int]]),
    (Row(a=1), Row),
    (Path("/tmp/x"), Path),
    ([Path("a")], list[Path]),
    (None, Order | None),
    (Order("o"), Order | OutOfStock),
    (OutOfStock("s", 1), Order | OutOfStock),
    ([OutOfStock("s", 1), Order("o")], list[Order | OutOfStock]),
    ({"a": None}, dict[str, Order | OutOfStock | None]),
    (MODEL, Other | Model),
    (Other(theText="z"), Other | Model | str),
    ("plain", Other | Model | str),
    (WHEN, datetime | str),
    ("later", datetime | str),
    ("x", Literal["x", "y"]),
    (5, Annotated[int, msgspec.Meta(gt=1)]),
    ({"k": [1, {"z": None}]}, Any),
    ({"k": [1]}, object),
    ([None, 10**30, "\u00cb\u007f"], Any),
    ((None, b"\xcb\x7f\xf8"), tuple[None, bytes]),
]


@pytest.mark.parametrize(("value", "type_"), ROUND_TRIPS, ids=lambda each: str(each)[:40])
def test_round_trip(value: Any, type_: Any) -> None:
    back = codec.decode(codec.encode(value), type_)
    assert back == value
    assert type(back) is type(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_every_json_value_is_what_it_was(value: Any) -> None:
    assert codec.decode(codec.encode(value)) == value


def test_an_undecodable_value_names_the_field() -> None:
    text = '{"id": "o", "items": [{"name": "a", "price": 1}, {"name": "b", "price": "dear"}]}'
    with pytest.raises(
        CodecError, match=r"^\$\.items\[1\]\.price: Expected `float`, got `str` \(read as .*Order\)$"
    ):
        codec.decode(text, Order)


def test_an_undecodable_field_of_a_pydantic_model_names_the_whole_path() -> None:
    text = codec.encode(Holder(MODEL, [])).replace('"lines":[1]', '"lines":[1,"x"]')
    with pytest.raises(CodecError, match=r"^\$\.model\.lines\[1\]: Input should be a valid integer"):
        codec.decode(text, Holder)


@pytest.mark.parametrize(
    ("text", "type_", "message"),
    [
        ('"5"', int, r"^\$: Expected `int`, got `str`"),
        ("{", Order, r"^\$: not valid JSON"),
        ("null", Order, r"^\$: Expected `object`, got `null`"),
        ('{"sku": "s"}', Order | OutOfStock, r"fits no member of the union: .*Order has other fields"),
        ("1", Order | OutOfStock, r"fits no member of the union"),
        ('{"a": 1}', Row | dict[str, int], r"fits .* alike"),
    ],
)
def test_what_cannot_be_read(text: str, type_: Any, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        codec.decode(text, type_)


def test_a_type_that_can_never_be_read_is_refused() -> None:
    class Plain:
        pass

    @dataclass
    class Ambiguous:
        part: Order | OutOfStock

    with pytest.raises(CodecError, match=r"Plain cannot be read from JSON; use a dataclass"):
        codec.decode('[{"a": 1}]', list[Plain])
    with pytest.raises(CodecError, match=r"Ambiguous cannot be read .*tag=True"):
        codec.decode("{}", Ambiguous)


class Unknown:
    pass


async def a_coroutine() -> None: ...


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-math.nan, r"^\$: nan has no form in JSON"),
        ([10**30, {"a": math.inf}], r"^\$\[1\]\.a: inf has no form in JSON"),
        (math.nan, r"^\$: nan has no form in JSON"),
        (Order("o", [Item("a", 1.0), Item("b", math.inf)]), r"^\$\.items\[1\]\.price: inf has no form"),
        ({"a": (None, {"b": -math.inf})}, r"^\$\.a\[1\]\.b: -inf has no form"),
        (Unknown(), r"^\$: a value of type .*Unknown has no form in JSON; use a dataclass"),
        ({"a": [1, {"b": Unknown()}]}, r"^\$\.a\[1\]\.b: a value of type .*Unknown"),
        (Holder(MODEL, [Unknown()]), r"^\$\.others\[0\]: a value of type .*Unknown"),  # pyright: ignore[reportArgumentType] - planted
        ({(1, 2): 3}, r"^\$: a dict key of type tuple cannot be a JSON key"),
        ([{None: 3}], r"^\$\[0\]: a dict key of type NoneType cannot be a JSON key"),
        ({"e": ValueError("x")}, r"^\$\.e: an exception \(ValueError\) is not a value; raise it"),
        ("\ud800", r"^\$: .*surrogates not allowed"),
        (CYCLE, r"^\$.*nested too deeply or contains itself"),
    ],
    ids=lambda each: str(each)[:30],
)
def test_what_cannot_be_written_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        codec.encode(value)


def test_a_forgotten_await_is_named() -> None:
    coroutine = a_coroutine()
    with pytest.raises(CodecError, match=r"coroutine must be awaited \(or yielded\) first"):
        codec.encode([coroutine])
    coroutine.close()


# --- calls ---------------------------------------------------------------------------------------


def buy(order: Order, /, *extras: Item, when: date | None = None, **notes: int) -> Order | OutOfStock: ...


def unannotated(a, b=1): ...


def test_a_call_is_typed_by_the_annotations() -> None:
    text = codec.encode_call((Order("o"), Item("x", 1.0)), {"when": date(2024, 1, 1), "note": 3})
    args, kwargs = codec.decode_call(text, buy)
    assert args == [Order("o"), Item("x", 1.0)]
    assert kwargs == {"when": date(2024, 1, 1), "note": 3}
    assert codec.decode_call(codec.encode_call((), {}), lambda: None) == ([], {})
    assert codec.decode_call('[[{"z":1}],{"b":2}]', unannotated) == ([{"z": 1}], {"b": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[{"id":1}],{}]', r"^argument 'order' of .*buy: \$\.id: Expected `str`, got `int`"),
        (
            '[[{"id":"o"},{"name":"a"}],{}]',
            r"^argument 'extras' of .*buy: \$: Object missing required field `price`",
        ),
        ('[[{"id":"o"}],{"when":"soon"}]', r"^argument 'when' of .*buy: \$: Invalid RFC3339"),
        ('[[{"id":"o"}],{"note":"x"}]', r"^argument 'notes' of .*buy: \$: Expected `int`"),
        ("[[],{}]", r"do not fit .*buy\(order, /, \*extras, when=None, \*\*notes\): missing 'order'"),
        ("{}", r"the arguments of .*buy are not \[\[\.\.\.\]"),
    ],
)
def test_a_call_that_cannot_be_read_names_the_argument(text: str, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        codec.decode_call(text, buy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1,2,3],{}]", r"unannotated\(a, b=1\): 3 positional arguments given, it takes 2"),
        ('[[1],{"c":2}]', r"it has no parameter 'c'"),
        ('[[1],{"a":2}]', r"'a' is given twice"),
        ('[[],{"b":2}]', r"missing 'a'"),
    ],
)
def test_arguments_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        codec.decode_call(text, unannotated)


def test_an_argument_that_cannot_be_written_is_named() -> None:
    with pytest.raises(CodecError, match=r"^argument 2: \$\.x: a value of type .*Unknown"):
        codec.encode_call((1, {"x": Unknown()}), {})
    with pytest.raises(CodecError, match=r"^argument when: \$\[0\]: nan"):
        codec.encode_call((), {"when": [math.nan]})


def test_result_and_input_types() -> None:
    def generator(ctx: Any, order: Order) -> Generator[Any, Any, int]:
        yield
        return 1

    async def coroutine(ctx: Any) -> list[Order]: ...

    def awaitable() -> Awaitable[str]: ...

    @dataclass
    class Local:
        a: int

    def local() -> Local: ...

    assert codec.result_type(generator) is int
    assert codec.input_type(generator) is Order
    assert codec.result_type(coroutine) == list[Order]
    assert codec.input_type(coroutine) is Any
    assert codec.result_type(awaitable) is str
    assert codec.result_type(unannotated) is Any
    with pytest.raises(CodecError, match=r"annotation 'Local' of 'return' in .*local names nothing"):
        codec.decode("{}", codec.result_type(local))
