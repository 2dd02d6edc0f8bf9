"""Fan-out and fan-in: many activities at once, on as many workers as there are, and then one answer."""

from __future__ import annotations

from datetime import timedelta

from celeriac.activities import activity
from celeriac.orchestrations import OrchestrationContext, TaskFailedError, orchestrator, testing, when_all


@activity
def count_words(text: str) -> int:
    if not text:
        raise ValueError("an empty text")
    return len(text.split())


@orchestrator
async def count_all(ctx: OrchestrationContext, texts: list[str]) -> int:
    return sum(await when_all([ctx.call_activity(count_words, text) for text in texts]))


def test_all_at_once() -> None:
    result = testing.run(count_all, ["a b", "c", "d e f"], durations={"count_words": timedelta(hours=1)})
    assert result.output == 6
    assert result.elapsed == timedelta(hours=1)  # together, not one after the other


# `ctx.map` is for wide fan-outs: one task for all of them, and a limit to how many run at once.


@orchestrator
async def count_gently(ctx: OrchestrationContext, texts: list[str]) -> list[int]:
    return await ctx.map(count_words, texts, max_parallel=10)


def test_ten_at_a_time() -> None:
    result = testing.run(count_gently, ["a b"] * 1000, durations={"count_words": timedelta(minutes=1)})
    assert result.output == [2] * 1000
    assert result.elapsed == timedelta(minutes=100)


# `when_all` waits for every task, then raises the first failure; `.failures` has all of them.


@orchestrator
async def count_what_counts(ctx: OrchestrationContext, texts: list[str]) -> str:
    try:
        await when_all([ctx.call_activity(count_words, text) for text in texts])
    except TaskFailedError as error:
        return f"{len(error.failures)} failed: {error.details.message}"
    return "all well"


def test_failures_are_gathered() -> None:
    result = testing.run(count_what_counts, ["a", "", "b", ""])
    assert result.output == "2 failed: an empty text"
    assert len(result.attempts("count_words")) == 4
