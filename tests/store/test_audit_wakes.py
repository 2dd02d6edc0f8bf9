"""The audit of the store: every kind of lost wake source, broken by hand in Redis, is put back."""

from __future__ import annotations

from typing import Any

import pytest
from audit_desk import close, join, look, message, running, take

from celeriac.celery_app.store import audit, instances, turns
from celeriac.celery_app.store.records import ChildStart, GroupOpen, OpenedStep, new_execution
from celeriac.orchestrations.history import SubOrchestrationInstanceCompleted, SubOrchestrationInstanceFailed


def test_ready_and_claimed(desk: Any) -> None:
    """Not in the list of ready ones; claimed by nobody; not among its holder's claims."""
    desk.start()
    desk.store.client.delete(desk.keys.ready)
    assert [one.kind for one in look(desk).mended] == ["ready"]
    claimed = desk.claim_one()
    desk.store.client.delete(desk.keys.claims("o1"))
    assert [one.kind for one in look(desk).mended] == ["claim"]
    assert desk.store.client.smembers(desk.keys.claims("o1")) == {b"a"}
    desk.store.client.delete(desk.keys.beats)
    assert [one.kind for one in look(desk).mended] == ["claim"]
    desk.end()
    assert claimed.instance == "a"


def test_ready_in_an_hour_because_the_clock_was_set_back(desk: Any) -> None:
    """Nobody waits for longer than two minutes for another try, so this is no pause."""
    desk.start()
    desk.now -= 3_600_000
    desk.beat("o1")
    assert desk.claim() == []
    assert [one.kind for one in look(desk).mended] == ["ready"]
    desk.end()


def test_who_waits_for_another_try_is_left_alone(desk: Any) -> None:
    desk.start()
    claimed = desk.claim_one()
    desk.store.run(turns.release(desk.keys, "a", claimed.claim, 75_000, "nobody serves it", now=desk.now))
    assert look(desk).mended == []
    assert desk.claim() == []
    desk.now += 75_000
    desk.end()


def test_unread_events(desk: Any) -> None:
    claimed = running(desk, 1)
    desk.complete(claimed, 1)
    desk.store.client.delete(desk.keys.ready)
    desk.store.client.hset(desk.keys.inst("a"), "stage", "0")
    assert [one.kind for one in look(desk).mended] == ["inbox"]
    desk.end()
    desk.store.client.delete(desk.queue)


def test_a_delayed_start(desk: Any) -> None:
    due = desk.now + 100_000
    desk.start(start_at=due)
    desk.store.client.delete(desk.keys.timers)
    assert [one.kind for one in look(desk).mended] == ["start"]
    assert desk.store.client.zscore(desk.keys.timers, ":start:a") == due
    desk.now = due
    desk.store.run(turns.fire_timers(desk.keys, now=desk.now))
    desk.end()


def test_a_timer(desk: Any) -> None:
    """Its time is in the history only, so it is handed out and listed again."""
    desk.start()
    claimed = desk.step(timers=[(7, desk.now + 100_000)])
    desk.store.client.delete(desk.keys.timers)
    (suspect,) = look(desk).suspects
    assert (suspect.kind, suspect.seq) == ("timer", 7)
    assert desk.store.run(audit.retime(desk.keys, suspect, desk.now + 5)) == "OK"
    assert desk.store.run(audit.retime(desk.keys, suspect, desk.now + 9)) == "GONE"
    assert look(desk).suspects == []
    desk.now += 5
    desk.store.run(turns.fire_timers(desk.keys, now=desk.now))
    assert desk.open(claimed.execution) == {}
    desk.end()


@pytest.mark.parametrize("how", ["purged", "silent", "elsewhere"])
def test_a_child_that_said_nothing(desk: Any, how: str) -> None:
    desk.start()
    event = desk.request("b")
    child = ChildStart(instance="b", execution=event.execution, name="flow", started=event.started, seq=3)
    claimed = desk.step(children=[child])
    assert look(desk).mended == []
    desk.store.client.hset(desk.keys.open(claimed.execution), "4", "c|b")  # when the child ends, it tells 3
    if how == "silent":
        desk.end()
        desk.store.client.delete(desk.keys.inbox("a"))
    elif how == "purged":
        desk.store.run(instances.terminate(desk.keys, "b", "", desk.now))
        desk.store.client.delete(desk.keys.inbox("a"))
        desk.store.run(instances.purge(desk.keys, "b"))
    else:
        desk.store.client.hset(desk.keys.inst("b"), "parent_execution", new_execution())
    assert {one.kind for one in look(desk).mended} >= {"child"}
    events = [event for event in desk.inbox() if event.seq == 4]
    expected = SubOrchestrationInstanceCompleted if how == "silent" else SubOrchestrationInstanceFailed
    assert [type(event) for event in events] == [expected]
    if how == "silent":
        assert events[0].result == "1"
    if how == "elsewhere":
        desk.store.run(instances.terminate(desk.keys, "b", "", desk.now))
    desk.end()
    assert desk.open(claimed.execution) == {}


def test_a_window_that_nobody_asked_for(desk: Any) -> None:
    desk.start()
    claimed = desk.claim_one()
    parts = [OpenedStep(1 + n, desk.queue, message(claimed, 1 + n), group=1) for n in range(2)]
    desk.commit(desk.turn(claimed, messages=parts, groups=[GroupOpen(1, 4, 2, 2)]))
    assert look(desk).mended == []
    desk.complete(claimed, 1, text=b"{", index=0)
    assert desk.inbox() == ["E1"]
    desk.store.client.delete(desk.keys.inbox("a"), desk.keys.ready)
    desk.store.client.hset(desk.keys.inst("a"), "stage", "0")
    assert {one.kind for one in look(desk).mended} == {"window"}
    assert desk.inbox() == ["E1"]
    desk.end()
    desk.store.client.delete(desk.queue)


def test_a_step_given_up_that_nobody_judges(desk: Any) -> None:
    """Too many processes died under it: its deadline of kind `l` is there again."""
    claimed = running(desk, 1)
    join(desk)
    take(desk, 1)
    desk.store.client.hset(desk.keys.open(claimed.execution), "1", "1|d||l3")
    assert [one.kind for one in look(desk).mended] == ["judge"]
    assert desk.store.client.zcard(desk.keys.deadlines) == 1
    close(desk, claimed, 1)
    assert desk.store.client.zcard(desk.keys.deadlines) == 0


@pytest.mark.parametrize("before", [False, True])
def test_what_the_engine_suspended_is_left_alone(desk: Any, before: bool) -> None:
    """Poison with unread controls, its user's suspend among them or not: nobody claims it unasked."""
    desk.start()
    desk.step()
    if before:
        desk.store.run(instances.suspend(desk.keys, "a", "by hand", desk.now))
    else:
        desk.store.run(instances.raise_event(desk.keys, "a", b'{"k":10,"name":"go"', now=desk.now))
    claimed = desk.claim_one()
    desk.store.run(instances.suspend(desk.keys, "a", "while it runs", desk.now))
    desk.store.run(turns.release(desk.keys, "a", claimed.claim, 0, "it hangs", suspend=True, now=desk.now))
    assert desk.record()["stage"] == "0"
    assert look(desk).mended == []
    desk.store.run(instances.resume(desk.keys, "a", "", desk.now))
    desk.end()
