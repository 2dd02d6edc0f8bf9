"""Changing code while instances run: versions side by side, and `ctx.patched` inside one version.

A running instance is repeated from its history, so its code must go on asking for what it asked for. Recorded
histories beside the tests tell before a deployment.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from celeriac.activities import activity
from celeriac.orchestrations import NonDeterminismError, OrchestrationContext, orchestrator, testing
from celeriac.orchestrations.registry import REGISTRY, Registry


@activity
def charge_card(cents: int) -> str:
    return f"charged {cents}"


@activity
def check_fraud(cents: int) -> bool:
    return cents > 100_000


@orchestrator(name="billing", version="1.0")
async def billing_v1(ctx: OrchestrationContext, cents: int) -> str:
    return await ctx.call_activity(charge_card, cents)


@orchestrator(name="billing", version="1.1")
async def billing_v1_1(ctx: OrchestrationContext, cents: int) -> str:
    if await ctx.call_activity(check_fraud, cents):
        return "refused"
    return await ctx.call_activity(charge_card, cents)


def test_a_new_instance_gets_the_newest_version() -> None:
    assert REGISTRY.names()["billing"] == ["1.0", "1.1"]
    assert testing.run("billing", 200_000).output == "refused"
    assert testing.run(billing_v1, 200_000).output == "charged 200000"


# Without a new version, the history of an old instance does not fit the new code:


def test_a_breaking_change_is_found_by_replay() -> None:
    recording = testing.run(billing_v1, 5).to_json()
    testing.replay_history(billing_v1, recording)
    with pytest.raises(NonDeterminismError, match=r"recorded: .*charge_card.*\n +issued: +.*check_fraud"):
        testing.replay_history(billing_v1_1, recording)


# Guarded by `patched`, it does: new instances take the new branch, old ones go on as they began.


@orchestrator(name="billing", version="1.0", registry=Registry())
async def billing_patched(ctx: OrchestrationContext, cents: int) -> str:
    if ctx.patched("check fraud") and await ctx.call_activity(check_fraud, cents):
        return "refused"
    return await ctx.call_activity(charge_card, cents)


def test_a_patch_keeps_old_instances_going() -> None:
    testing.replay_history(billing_patched, testing.run(billing_v1, 5).to_json())
    assert testing.run(billing_patched, 200_000).output == "refused"


# A child is started by name too, and may be of another version.


@orchestrator
async def bill_twice(ctx: OrchestrationContext) -> list[str]:
    old = await ctx.call_sub_orchestrator("billing", 200_000, version="1.0")
    await ctx.create_timer(timedelta(days=30))
    return [old, await ctx.call_sub_orchestrator("billing", 200_000)]


def test_versions_side_by_side() -> None:
    assert testing.run(bill_twice).output == ["charged 200000", "refused"]
