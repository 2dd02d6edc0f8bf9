"""Attempts that a death ended are not counted, also when nobody has the message any more that says so."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from celeriac.activities import ActivityContext
from celeriac.celery_app import retrying
from celeriac.orchestrations import RetryPolicy, when_all
from celeriac.orchestrations.errors import ActivityWorkerLostError, UnknownActivityError


@pytest.fixture
def here(lab: Any) -> Any:
    """The laboratory with activities whose first attempt ends by the death of its process."""

    def ends(context: ActivityContext, good: int) -> str:
        if context.attempt == 1:
            raise ActivityWorkerLostError("killed")
        if context.attempt < good:
            raise ConnectionError("not yet")
        return "done"

    @lab.activity(retry=RetryPolicy(timedelta(milliseconds=10), 2))
    def mortal(context: ActivityContext) -> str:
        return ends(context, 3)

    @lab.activity(retry=RetryPolicy(timedelta(milliseconds=10), 3), schedule_to_start=2.0)
    def urgent(context: ActivityContext) -> str:
        return ends(context, 4)

    @lab.activity(retry=RetryPolicy(timedelta(milliseconds=10), 1))
    def strange() -> None:
        raise UnknownActivityError("nobody knows it")

    @lab.activity
    def easy() -> str:
        return "easy"

    activities = {"mortal": mortal, "urgent": urgent, "strange": strange}

    @lab.orchestrator
    async def single(ctx: Any, name: str) -> str:
        return await ctx.call_activity(activities[name])

    @lab.orchestrator
    async def part(ctx: Any, name: str) -> str:
        return (await when_all([ctx.call_activity(activities[name]), ctx.call_activity(easy)]))[0]

    return lab


def killed_once(here: Any, flow: str, name: str) -> str:
    """An instance whose first attempt died; nobody is there to take the second."""
    here.work()
    pump = here.pump()
    instance = here.client.start(flow, name)
    here.until(lambda: here.store.client.zcard(here.store.keys.parked) == 1)
    pump.stop()
    return instance


@pytest.mark.parametrize("flow", ["single", "part"])
def test_a_message_made_anew_says_what_was_spared(here: Any, flow: str) -> None:
    """Two attempts by its policy: the third in all is the second that counts."""
    instance = killed_once(here, flow, "mortal")
    here.store.client.delete(here.store.keys.parked, here.store.keys.parked_body)
    here.until(lambda: here.store.client.llen(here.settings.queue_key()) == 1)
    pump = here.pump()
    assert here.client.wait(instance, timeout=30).output == "done"
    assert pump.ran == [("mortal", 2), ("mortal", 3)]
    assert (pump.groups[0] is not None) == (flow == "part")


@pytest.mark.parametrize("flow", ["single", "part"])
def test_who_judges_a_deadline_knows_what_was_spared(here: Any, flow: str) -> None:
    """The second attempt finds no worker in time; that is the first of three that count."""
    instance = killed_once(here, flow, "urgent")
    here.until(lambda: open_step(here, instance).startswith("3|"))
    pump = here.pump()
    assert here.client.wait(instance, timeout=30).output == "done"
    assert pump.ran[-1] == ("urgent", 4)


def open_fields(here: Any, instance: str) -> dict[str, str]:
    raw = here.store.client.hgetall(here.store.keys.open(here.client.get(instance).execution))
    return {field.decode(): value.decode() for field, value in raw.items()}


def open_step(here: Any, instance: str) -> str:
    return next((value for field, value in open_fields(here, instance).items() if field.isdigit()), "")


def test_the_time_that_an_activity_may_be_unknown_goes_on(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message made anew does not begin it again."""

    instance = killed_once(here, "single", "strange")
    here.store.client.delete(here.store.keys.parked, here.store.keys.parked_body)
    here.until(lambda: here.store.client.llen(here.settings.queue_key()) == 1)
    (kept,) = (value for field, value in open_fields(here, instance).items() if field.startswith("n"))
    passed = int(time.time() * 1000) - int(kept.split()[1])
    monkeypatch.setattr(
        retrying, "UNKNOWN_FOR", passed
    )  # over by now, if it goes on; never, if it begins anew
    pump = here.pump()
    assert here.client.wait(instance, timeout=30).status == "Failed"
    assert pump.ran == [("strange", 2)]
