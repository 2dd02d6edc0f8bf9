"""The limits of single values and of one step: what is just small enough passes, one more does not.

Settings and constants are lowered where the real size would be slow; the same code compares.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.client.validation import MAX_REASON
from celeriac.celery_app.store import turns
from celeriac.orchestrations.context import MAX_CUSTOM_STATUS
from celeriac.orchestrations.errors import PayloadTooLargeError, TaskFailedError

MOST = 4096  # of max_payload


@dataclass
class Case:
    """A value that travels: `around` is what stands around its text in the JSON that is measured."""

    name: str
    around: int


CASES = [
    Case("activity input", len('[[""],{}]')),
    Case("child input", len('""')),
    Case("child output", len('""')),  # fails the child
]


def flows(lab: Any) -> Any:
    @lab.activity
    def swallow(text: str) -> int:
        return len(text)

    @lab.orchestrator
    async def swallows(ctx: Any, text: str) -> int:
        return len(text)

    @lab.orchestrator
    async def blows(ctx: Any, size: int) -> str:
        return "x" * size

    calls = {
        "activity input": lambda ctx, size: ctx.call_activity(swallow, "x" * size),
        "child input": lambda ctx, size: ctx.call_sub_orchestrator(swallows, "x" * size),
        "child output": lambda ctx, size: ctx.call_sub_orchestrator(blows, size),
    }

    @lab.orchestrator
    async def tries(ctx: Any, what: list[Any]) -> str:
        try:
            await calls[what[0]](ctx, what[1])
        except TaskFailedError as error:
            return str(error.details)
        return "passed"

    return tries


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_a_value_of_max_payload_passes_and_one_byte_more_fails_the_call(lab: Any, case: Case) -> None:
    tries = flows(lab)
    lab.work(max_payload=MOST)
    lab.pump()
    assert lab.run(tries, [case.name, MOST - case.around]).output == "passed"
    said = lab.run(tries, [case.name, MOST - case.around + 1]).output
    assert "PayloadTooLargeError" in said
    assert f"{MOST + 1:,} bytes as JSON; the limit is {MOST:,}" in said


def test_a_client_is_refused_one_byte_more(lab: Any) -> None:
    tries = flows(lab)
    client = Client(settings=replace(lab.settings, max_payload=MOST), registry=lab.registry, store=lab.store)
    around = len('["",1]')
    fits, over = ["x" * (MOST - around), 1], ["x" * (MOST - around + 1), 1]
    instance = client.start(tries, fits)
    with pytest.raises(PayloadTooLargeError, match="4,097 bytes of JSON, over the limit of 4,096"):
        client.start(tries, over)
    client.raise_event(instance, "e", fits)
    with pytest.raises(PayloadTooLargeError, match="4,097 bytes of JSON, over the limit of 4,096"):
        client.raise_event(instance, "e", over)
    lab.client.terminate(instance)


def test_a_custom_status_at_its_limit_and_one_byte_over(lab: Any) -> None:
    @lab.orchestrator
    async def shows(ctx: Any, size: int) -> str:
        try:
            ctx.set_custom_status("x" * (size - 2))
        except ValueError as error:
            return str(error)
        return "shown"

    lab.work()
    shown = lab.run(shows, MAX_CUSTOM_STATUS)
    assert (shown.output, len(shown.custom_status)) == ("shown", MAX_CUSTOM_STATUS - 2)
    assert f"takes {MAX_CUSTOM_STATUS + 1} bytes" in lab.run(shows, MAX_CUSTOM_STATUS + 1).output


def test_a_reason_is_cut(lab: Any) -> None:
    @lab.orchestrator
    async def waits(ctx: Any) -> None:
        await ctx.wait_for_external_event("never")

    for size in (MAX_REASON, MAX_REASON + 1):
        instance = lab.client.start(waits)
        lab.client.terminate(instance, "x" * size)
        assert len(lab.client.get(instance).reason) == MAX_REASON


def test_one_step_that_asks_for_more_than_a_commit_carries(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the true 20,000: the number is lowered to 40, the code that compares is the same."""
    monkeypatch.setattr(turns, "MOST_ITEMS", 40)

    @lab.orchestrator
    async def asks(ctx: Any, count: int) -> str:
        for n in range(count):
            ctx.create_timer(timedelta(days=1 + n))
        await ctx.wait_for_external_event("go")
        return "asked"

    lab.work()
    passed, instance = 0, ""
    for count in range(10, 40):
        instance = lab.client.start(asks, count)
        status = lab.until(lambda i=instance: (s := lab.status(i)) != "Pending" and s)
        if status == "Failed":
            break
        passed = count
        lab.client.terminate(instance)
    assert passed == 19  # its start, and an event and a timer for each
    failure = lab.client.get(instance).failure
    assert failure.error_type.endswith("PayloadTooLargeError")
    assert "carries 41 items in" in failure.message
    assert "at most 40 and" in failure.message
