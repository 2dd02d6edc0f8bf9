"""Orchestrators by name and version, and what cannot be one."""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

from celeriac.orchestrations import AuthoringError, OrchestrationContext, RegistrationError, orchestrator
from celeriac.orchestrations.registry import Registry, version_key


@dataclass
class Order:
    id: str


def test_a_definition_says_what_the_function_says() -> None:
    registry = Registry()

    @orchestrator(name="buy", version="2", registry=registry)
    async def buy_things(ctx: OrchestrationContext, order: Order) -> list[Order]:
        """Buys."""
        return [order]

    made = buy_things.definition
    assert registry.get("buy") is made
    assert (made.name, made.version, made.takes_input) == ("buy", "2", True)
    assert (made.input_type, made.result_type) == (Order, list[Order])
    assert made.where.endswith(f"test_registry.py:{buy_things.definition.function.__code__.co_firstlineno}")
    assert buy_things.__doc__ == "Buys."
    assert repr(buy_things).startswith("<orchestrator 'buy' version '2' at ")


def test_generators_and_types_defined_in_functions() -> None:
    @dataclass
    class Local:
        a: int

    @orchestrator(registry=Registry())
    def walk(ctx: OrchestrationContext, start: Local) -> Generator[Any, Any, Local]:
        yield
        return start

    assert (walk.definition.input_type, walk.definition.result_type) == (Local, Local)

    @orchestrator(registry=Registry())
    async def alone(ctx: OrchestrationContext) -> None: ...

    assert not alone.definition.takes_input


def test_versions_are_ordered_as_people_order_them() -> None:
    versions = ["", "rc1", "1.0-beta", "1.0", "1.0.1", "1.2", "1.9", "1.10", "2.0rc1", "2.0rc2", "2.0", "10"]
    shuffled = random.Random(1).sample(versions, len(versions))
    assert sorted(shuffled, key=version_key) == versions


def test_versions_live_side_by_side() -> None:
    registry = Registry()

    @orchestrator(name="w", version="1.9", registry=registry)
    async def old(ctx: OrchestrationContext) -> None: ...
    @orchestrator(name="w", version="1.10", registry=registry)
    async def new(ctx: OrchestrationContext) -> None: ...

    assert registry.get("w") is new.definition
    assert registry.get("w", "1.9") is old.definition
    assert registry.get("w", "3") is None
    assert registry.get("v") is None
    assert registry.names() == {"w": ["1.9", "1.10"]}


def test_one_name_and_version_twice_is_refused_naming_both_places() -> None:
    registry = Registry()

    @orchestrator(name="w", version="1", registry=registry)
    async def one(ctx: OrchestrationContext) -> None: ...

    with pytest.raises(RegistrationError, match=r"'w' version '1' is defined twice: .*:\d+ and .*:\d+; give"):

        @orchestrator(name="w", version="1", registry=registry)
        async def two(ctx: OrchestrationContext) -> None: ...

    assert registry.get("w") is one.definition


def plain(ctx: Any) -> None: ...
async def no_parameters() -> None: ...
async def three(ctx: Any, a: int, b: int) -> None: ...
async def nothing(ctx: Any) -> None: ...
async def keyword_only(ctx: Any, *, a: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (plain, r"plain .*cannot be an orchestrator: write it as `async def`"),
        (no_parameters, r"no_parameters\(\) .*its parameters are \(ctx\) or \(ctx, input\)"),
        (three, r"three\(ctx, a, b\) .*put several inputs into one dataclass"),
        (keyword_only, r"keyword_only\(ctx, \*, a\)"),
    ],
)
def test_what_cannot_be_an_orchestrator(function: Any, message: str) -> None:
    with pytest.raises(AuthoringError, match=message):
        orchestrator(registry=Registry())(function)


@pytest.mark.parametrize("name", ["", " a", "a\n", "x" * 257])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(AuthoringError, match="cannot name an orchestrator"):
        orchestrator(name=name, registry=Registry())(nothing)
