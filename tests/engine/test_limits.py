"""What one instance may take up, each limit at its boundary, with what becomes of whoever passes it."""

from __future__ import annotations

import logging
import zlib
from datetime import timedelta
from typing import Any

import pytest

from celeriac.celery_app.store import payloads
from celeriac.celery_app.store.payloads import UNPACKED_MOST
from celeriac.orchestrations.errors import InvalidArgumentError, PayloadTooLargeError, TaskFailedError
from celeriac.orchestrations.run import MOST_ISSUED


def suspended(lab: Any, instance: str) -> str:
    return lab.until(lambda: (s := lab.client.get(instance)).status == "Suspended" and s.reason)


def gathers(lab: Any) -> Any:
    @lab.orchestrator
    async def gathers(ctx: Any) -> int:
        count = 0
        while await ctx.wait_for_external_event("n", bool):
            count += 1
        return count

    return gathers


def test_a_history_as_long_as_it_may_be_suspends_until_there_is_room(lab: Any, caplog: Any) -> None:
    flow = gathers(lab)
    worker = lab.work(max_history=20)
    instance = lab.client.start(flow)
    with caplog.at_level(logging.WARNING):
        for n in range(19):
            lab.client.raise_event(instance, "n", True)
            lab.until(lambda n=n: len(lab.history(instance)) == n + 2)
    assert "it may have 20: end runs before they grow so long, with ctx.continue_as_new" in caplog.text
    assert lab.status(instance) == "Running"
    lab.client.raise_event(instance, "n", False)
    reason = suspended(lab, instance)
    assert "20 events; the limit is 20 (CELERIAC_MAX_HISTORY)" in reason
    assert "continue_as_new" in reason
    assert lab.client.resume(instance)
    assert "20 events" in suspended(lab, instance)
    lab.halt(worker)
    lab.work(max_history=30)
    lab.client.resume(instance)
    assert lab.client.wait(instance, timeout=20).output == 19


@pytest.mark.parametrize("cache", [0, 100])
def test_bytes_of_a_history_are_counted_too(lab: Any, cache: int) -> None:
    flow = gathers(lab)
    lab.work(max_history_bytes=4096, cache_size=cache)
    instance = lab.client.start(flow)
    for _ in range(100):
        lab.client.raise_event(instance, "n", True)
        lab.client.raise_event(instance, "other", "x" * 500)
        if lab.status(instance) == "Suspended":
            break
    assert "bytes; the limit is 4,096 (CELERIAC_MAX_HISTORY_BYTES)" in suspended(lab, instance)
    lab.client.terminate(instance)


def test_a_full_history_lets_a_cancellation_pass(lab: Any) -> None:
    flow = gathers(lab)
    lab.work(max_history=10)
    instance = lab.client.start(flow)
    for n in range(10):
        lab.client.raise_event(instance, "n", True)
        lab.until(lambda n=n: len(lab.history(instance)) == min(n + 2, 10))
    suspended(lab, instance)
    lab.client.cancel(instance)
    assert lab.client.wait(instance, timeout=20).status == "Cancelled"


def test_sub_orchestrations_are_nested_as_deep_as_they_may(lab: Any) -> None:
    @lab.orchestrator
    async def nests(ctx: Any, depth: int) -> int:
        return 1 + await ctx.call_sub_orchestrator("nests", depth - 1) if depth else 0

    @lab.orchestrator
    async def endless(ctx: Any) -> None:
        await ctx.call_sub_orchestrator("endless")

    lab.work(max_depth=5)
    assert lab.run(nests, 5).output == 5
    failure = lab.run(endless).failure
    assert "LimitExceededError" in failure.message
    assert failure.is_caused_by("LimitExceededError")
    assert "may be nested 5 deep (CELERIAC_MAX_DEPTH)" in str(failure)
    assert len(list(lab.client.list(name="endless"))) == 6


def test_one_call_too_many_fails_alone(lab: Any) -> None:
    @lab.activity
    def add(n: int) -> int:
        return n + 1

    @lab.orchestrator
    async def asks(ctx: Any, count: int) -> list[str]:
        ctx.create_timer(timedelta(days=1))
        outcomes = []
        for task in [ctx.call_activity(add, n) for n in range(count)]:
            try:
                outcomes.append(await task)
            except TaskFailedError as error:
                outcomes.append(error.details.error_type.rpartition(".")[2])
        return outcomes

    @lab.orchestrator
    async def maps(ctx: Any) -> int:
        return sum(await ctx.map(add, range(50)))

    lab.work(max_open=4)
    lab.pump()
    assert lab.run(asks, 3).output == [1, 2, 3]
    assert lab.run(asks, 5).output == [1, 2, 3, "LimitExceededError", "LimitExceededError"]
    assert lab.run(maps).output == sum(range(1, 51))  # a fan-out is one


def test_timers_beyond_the_limit_fail_the_instance(lab: Any) -> None:
    @lab.orchestrator
    async def waits(ctx: Any, count: int) -> None:
        for n in range(count):
            ctx.create_timer(timedelta(hours=n + 1))
        await ctx.create_timer(timedelta(milliseconds=1))

    lab.work(max_open=4)
    assert lab.run(waits, 3).status == "Completed"
    failure = lab.run(waits, 4).failure
    assert failure.error_type.endswith("LimitExceededError")
    assert "4 activities, timers and sub-orchestrations open" in failure.message


def test_commands_of_one_step(lab: Any) -> None:
    @lab.orchestrator
    async def asks(ctx: Any, count: int) -> str:
        for _ in range(count - 1):
            ctx.create_timer(timedelta(days=1)).cancel()
        return "asked"

    lab.work()
    assert lab.run(asks, MOST_ISSUED).output == "asked"
    assert lab.run(asks, MOST_ISSUED + 1).status == "Failed"  # the end is a command too
    failure = lab.run(asks, MOST_ISSUED + 2).failure
    assert f"more than {MOST_ISSUED:,} things" in failure.message
    assert "test_limits.py:" in failure.message


def test_an_output_at_the_limit_and_one_byte_over(lab: Any, caplog: Any) -> None:
    @lab.orchestrator
    async def returns(ctx: Any, size: int) -> str:
        return "x" * (size - 2)

    lab.work(max_payload=300 * 1024)
    with caplog.at_level(logging.WARNING):
        assert lab.run(returns, 256 * 1024).status == "Completed"
        assert "keep large data elsewhere" not in caplog.text
        assert lab.run(returns, 300 * 1024).status == "Completed"
        assert "the output of orchestration returns is 307200 bytes" in caplog.text
    failure = lab.run(returns, 300 * 1024 + 1).failure
    assert failure.error_type.endswith("PayloadTooLargeError")
    assert "307,201 bytes as JSON; the limit is 307,200" in failure.message


def test_names_of_events(lab: Any) -> None:
    flow = gathers(lab)
    instance = lab.client.start(flow)
    lab.client.raise_event(instance, "x" * 100)
    with pytest.raises(InvalidArgumentError, match="1 to 100 characters"):
        lab.client.raise_event(instance, "x" * 101)
    lab.client.terminate(instance)


def test_a_blob_that_unpacks_to_too_much_is_refused() -> None:
    engine = zlib.compressobj(9)
    block = b"0" * 2**20
    packed = b"".join(engine.compress(block) for _ in range(UNPACKED_MOST // 2**20))
    packed += engine.compress(b"0") + engine.flush()
    with pytest.raises(PayloadTooLargeError, match="unpacks to more than"):
        payloads.unpack(b"z" + packed)


@pytest.mark.parametrize("garbage", [b"\xff\xfe", b"{", b'{"k":9999,"at":1}', b"Eleven"])
def test_an_inbox_that_cannot_be_read_shows_in_the_status_and_harms_nobody(lab: Any, garbage: bytes) -> None:
    flow = gathers(lab)
    lab.work()
    instance, other = lab.client.start(flow), lab.client.start(flow)
    lab.until(lambda: len(lab.history(instance)) == 1)
    inbox = lab.store.keys.inbox(instance)
    lab.store.client.rpush(inbox, garbage)
    lab.client.raise_event(instance, "n", False)
    assert "its inbox cannot be read here" in lab.until(lambda: lab.client.get(instance).waiting)
    lab.client.raise_event(other, "n", False)
    assert lab.client.wait(other, timeout=20).output == 0
    lab.store.client.lrem(inbox, 1, garbage)
    lab.client.resume(instance)  # it was not suspended, but it is tried at once
    assert lab.client.wait(instance, timeout=20).output == 0
