"""Eternal orchestrations: `continue_as_new` starts the next run with an empty history, for years on end."""

from __future__ import annotations

from datetime import timedelta

from celeriac.activities import activity
from celeriac.orchestrations import OrchestrationContext, orchestrator, testing

HOUR = timedelta(hours=1)


@activity
def is_up(site: str) -> bool:
    return site != "down.example"


@orchestrator
async def watch_site(ctx: OrchestrationContext, rounds: int) -> int:
    """Looks every hour until somebody says stop; the input carries what the next run must know."""
    if not await ctx.call_activity(is_up, "up.example"):
        ctx.set_custom_status("down!")
    if await ctx.wait_for_external_event("Stop", bool, timeout=HOUR, default=False):
        return rounds
    ctx.continue_as_new(rounds + 1)
    return rounds  # never reached: continue_as_new raises


def test_a_week_of_watching() -> None:
    result = testing.run(watch_site, 0, events=[testing.event("Stop", True, after=7 * 24 * HOUR + HOUR / 2)])
    assert result.output == 7 * 24
    assert len(result.runs) == 7 * 24 + 1
    assert len(result.history) < 10


def test_one_that_nobody_stops_is_watched_for_a_while() -> None:
    result = testing.run(watch_site, 0, until=10 * HOUR)
    assert result.status == "Running"
    assert len(result.attempts("is_up")) == 11
