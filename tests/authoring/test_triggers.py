"""Queue triggers are declarations: one target for each queue."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.orchestrations import AuthoringError, OrchestrationContext, RegistrationError, orchestrator
from celeriac.orchestrations.registry import Registry
from celeriac.orchestrations.triggers import TriggerRegistry, queue_trigger


@orchestrator(registry=Registry())
async def fulfil(ctx: OrchestrationContext, order: dict[str, int]) -> None: ...


def starter(message: Any, client: Any) -> None: ...


def test_the_four_ways_to_declare_one() -> None:
    registry = TriggerRegistry()
    assert queue_trigger("a", registry=registry)(fulfil) is fulfil
    assert queue_trigger("b", registry=registry, max_dequeue=2)(starter) is starter
    queue_trigger("c", registry=registry, orchestrator="by name")
    queue_trigger("d", registry=registry, event="Approval")
    a, b, c, d = registry.queues()
    assert (a.queue, a.orchestrator, a.max_dequeue, a.poison) == ("a", "fulfil", 5, "a-poison")
    assert (b.starter, b.max_dequeue) == (starter, 2)
    assert (c.orchestrator, d.event) == ("by name", "Approval")
    assert registry.get("d") is d


def test_two_targets_for_one_queue_are_refused() -> None:
    registry = TriggerRegistry()
    queue_trigger("orders", registry=registry)(fulfil)
    queue_trigger("orders", registry=registry)(fulfil)  # imported again
    with pytest.raises(RegistrationError, match=r"queue 'orders' has two triggers: orchestrator .*starter"):
        queue_trigger("orders", registry=registry)(starter)
    with pytest.raises(AuthoringError, match="has 2 targets"):
        queue_trigger("x", orchestrator=fulfil, event="E", registry=registry)
    with pytest.raises(AuthoringError, match="already leads to event"):
        queue_trigger("x", event="E", registry=registry)(starter)


def test_decorators_in_the_wrong_order_are_refused() -> None:
    async def plain(ctx: OrchestrationContext, order: dict[str, int]) -> None: ...

    with pytest.raises(AuthoringError, match="put @queue_trigger above @orchestrator"):
        queue_trigger("orders", registry=TriggerRegistry())(plain)


@pytest.mark.parametrize("queue", ["", "a b", "a{b}", "orders-poison", "x" * 129])
def test_queue_names_that_are_refused(queue: str) -> None:
    with pytest.raises(AuthoringError):
        queue_trigger(queue, registry=TriggerRegistry())


def test_a_number_of_tries_that_is_refused() -> None:
    with pytest.raises(AuthoringError, match="max_dequeue must be a whole number from 1; got 0"):
        queue_trigger("q", max_dequeue=0, registry=TriggerRegistry())
