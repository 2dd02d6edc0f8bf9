"""Suspend, resume, cancel, terminate, purge, restart, delayed start, idempotency, continue-as-new."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.client.purging import Purging
from celeriac.celery_app.store import FencedError, instances, payloads, turns, views
from celeriac.celery_app.store.records import NextRun, new_execution, open_text
from celeriac.orchestrations.errors import (
    InstanceEndedError,
    InstanceExistsError,
    InstanceNotEndedError,
    InstanceNotFoundError,
)
from celeriac.orchestrations.history import (
    CancelRequested,
    ContinuedAsNew,
    EventRaised,
    ExecutionStarted,
    TimerCreated,
    encode_event,
)


def names(events: list[Any]) -> list[str]:
    return [event if isinstance(event, str) else type(event).__name__ for event in events]


def raise_event(desk: Any, instance: str = "a", **more: Any) -> bool:
    text = open_text(EventRaised(name="go", input=more.pop("input", None)))
    return desk.store.run(instances.raise_event(desk.keys, instance, text, now=desk.now, **more))


def control(desk: Any, verb: Any, instance: str = "a") -> bool:
    return desk.store.run(verb(desk.keys, instance, "because", desk.now))


def test_while_suspended_events_stay_and_controls_are_delivered(desk: Any) -> None:
    desk.start()
    desk.step()
    assert control(desk, instances.suspend)
    assert not control(desk, instances.suspend)
    raise_event(desk)
    claimed = desk.claim_one()
    assert (claimed.status, claimed.suspended, claimed.inbox) == ("Suspended", True, [])
    assert not desk.commit(desk.turn(claimed)).ready
    assert desk.record()["status"] == "Suspended"
    assert control(desk, instances.resume)
    assert not control(desk, instances.resume)
    claimed = desk.claim_one()
    assert (len(claimed.controls), len(claimed.inbox), claimed.status) == (1, 1, "Running")
    desk.commit(desk.turn(claimed))
    expected = ["ExecutionStarted", "ExecutionSuspended", "ExecutionResumed", "EventRaised"]
    assert names(desk.history()) == expected


def test_suspended_before_it_began_it_begins_when_resumed(desk: Any) -> None:
    desk.start()
    control(desk, instances.suspend)
    assert desk.claim() == []
    raise_event(desk)
    assert desk.claim() == []
    control(desk, instances.resume)
    assert desk.record()["status"] == "Pending"
    claimed = desk.claim_one()
    assert (len(claimed.controls), len(claimed.inbox)) == (0, 2)
    desk.commit(desk.turn(claimed))


def test_suspended_in_its_first_turn_the_control_waits_for_the_history(desk: Any) -> None:
    desk.start()
    claimed = desk.claim_one()
    control(desk, instances.suspend)
    assert desk.commit(desk.turn(claimed)).ready
    claimed = desk.claim_one()
    assert (len(claimed.controls), claimed.inbox) == (1, [])
    desk.commit(desk.turn(claimed))
    control(desk, instances.resume)
    desk.step()


def test_suspended_in_a_first_turn_that_crashed_it_waits_for_resume(desk: Any) -> None:
    desk.start()
    desk.claim(incarnation="o9")
    control(desk, instances.suspend)
    desk.now += 60_000
    desk.store.run(turns.sweep(desk.keys, now=desk.now))
    assert desk.claim() == []
    assert desk.record()["stage"] == "0"
    control(desk, instances.resume)
    claimed = desk.claim_one()
    assert (claimed.alone, claimed.controls, len(claimed.inbox)) == (True, [], 1)
    assert desk.commit(desk.turn(claimed)).ready
    desk.step()


def test_cancel_overtakes_waiting_events_and_resumes(desk: Any) -> None:
    desk.start()
    desk.step()
    control(desk, instances.suspend)
    raise_event(desk)
    assert control(desk, instances.cancel)
    assert not control(desk, instances.cancel)
    claimed = desk.claim_one()
    assert not claimed.suspended
    desk.commit(desk.turn(claimed))
    assert names(desk.history())[1:] == [
        "ExecutionSuspended",
        "ExecutionResumed",
        "CancelRequested",
        "EventRaised",
    ]


def test_cancel_before_the_first_turn_comes_right_behind_the_start(desk: Any) -> None:
    desk.start(start_at=desk.now + 10_000)
    raise_event(desk)
    assert desk.claim() == []
    control(desk, instances.cancel)
    assert names(desk.inbox()) == ["ExecutionStarted", "CancelRequested", "EventRaised"]
    assert desk.inbox()[1] == CancelRequested(reason="because", at=desk.now)
    desk.end("Cancelled")


def test_a_delayed_start_waits_for_its_time(desk: Any) -> None:
    desk.start(start_at=desk.now + 10_000)
    assert desk.store.run(views.get(desk.keys, "a")).start_at == desk.now + 10_000
    desk.now += 9_999
    assert desk.store.run(turns.fire_timers(desk.keys, now=desk.now))[0] == 0
    assert desk.claim() == []
    desk.now += 1
    assert desk.store.run(turns.fire_timers(desk.keys, now=desk.now))[0] == 1
    desk.end()


def test_terminate_fences_the_running_turn_and_removes_what_is_open(desk: Any) -> None:
    desk.start()
    claimed = desk.step(events=[TimerCreated(seq=2, due=9)], timers=[(2, desk.now + 9)])
    raise_event(desk)
    claimed = desk.claim_one()
    control(desk, instances.terminate)
    with pytest.raises(FencedError):
        desk.commit(desk.turn(claimed))
    record = desk.store.run(views.get(desk.keys, "a"))
    assert (record.status, record.reason, record.inbox_length) == ("Terminated", "because", 0)
    assert names(desk.history())[-1] == "ExecutionTerminated"
    for verb in (instances.terminate, instances.suspend, instances.cancel):
        with pytest.raises(InstanceEndedError, match="Terminated"):
            control(desk, verb)
    with pytest.raises(InstanceEndedError):
        raise_event(desk)


def test_a_late_completion_creates_no_key(desk: Any) -> None:
    desk.start()
    claimed = desk.step(**desk.activity(1))
    control(desk, instances.terminate)
    desk.store.run(instances.purge(desk.keys, "a"))
    assert desk.complete(claimed, 1) == "GONE"
    left = {k.decode().split(":")[1] for k in desk.store.client.scan_iter(match=desk.keys.hub + ":*")}
    assert left <= {"beats", "heard", "room", "wake", "token", "pushed"}


def test_ids_that_are_unknown_or_still_run(desk: Any) -> None:
    with pytest.raises(InstanceNotFoundError, match="no instance has the id a"):
        raise_event(desk)
    desk.start()
    with pytest.raises(InstanceNotEndedError):
        desk.store.run(instances.purge(desk.keys, "a"))
    with pytest.raises(InstanceNotEndedError):
        desk.store.run(instances.restart(desk.keys, "a"))


def test_restart_takes_the_same_input_under_the_same_or_a_new_id(desk: Any) -> None:
    blob = payloads.pack('"' + "x" * 1000 + '"')
    first = desk.start(tags={"k": "v/ä"}, input="@in", payloads=[("in", blob)])
    desk.end()
    again = desk.store.run(instances.restart(desk.keys, "a", now=desk.now))
    assert again.execution != first.execution
    assert desk.store.run(payloads.fetch(desk.keys, again.execution, ["in"])) == [blob]
    desk.end()
    other = desk.store.run(instances.restart(desk.keys, "a", "b", now=desk.now))
    (started,) = desk.inbox("b")
    expected = ExecutionStarted(
        execution=other.execution, instance="b", name="flow", input="@in", tags={"k": "v/ä"}, at=desk.now
    )
    assert started == expected
    with pytest.raises(InstanceExistsError):
        desk.store.run(instances.restart(desk.keys, "a", "b", now=desk.now))
    desk.end()


def test_an_event_is_delivered_once_per_dedup_key(desk: Any) -> None:
    desk.start()
    assert raise_event(desk, dedup_key="k1")
    assert not raise_event(desk, dedup_key="k1")
    assert raise_event(desk, dedup_key="k2")
    assert len(desk.inbox()) == 3


def test_an_event_sent_again_after_it_ended_the_instance_was_still_delivered(desk: Any) -> None:
    """The reply was lost, and the instance took the event and ended before the second try."""
    desk.start()
    assert raise_event(desk, dedup_key="k1")
    desk.end()
    assert not raise_event(desk, dedup_key="k1")
    with pytest.raises(InstanceEndedError):
        raise_event(desk, dedup_key="k2")


def test_an_instance_that_ends_while_it_is_purged_is_not_removed_without_its_children(desk: Any) -> None:
    desk.start()
    purging = Purging(desk.keys).purge("a")
    running = desk.store.run(next(purging))
    desk.end()
    with pytest.raises(InstanceNotEndedError):
        purging.send(running)
    assert desk.record()["status"] == "Completed"


def test_an_idempotency_key_starts_once_whatever_the_id(desk: Any) -> None:
    first = desk.start("a", idempotency_key="order 1")
    second = desk.start("b", idempotency_key="order 1")
    assert (second.instance, second.execution, second.created) == ("a", first.execution, False)


def test_continue_as_new_starts_afresh_and_keeps_what_was_not_taken(desk: Any) -> None:
    big = payloads.pack('"big"')
    first = desk.start()
    claimed = desk.step(**desk.activity(1))
    raise_event(desk, input="@ev", payloads=[("ev", big)])
    claimed = desk.claim_one()
    raise_event(desk, input="@later", payloads=[("later", big)])
    run = new_execution()
    started = open_text(ExecutionStarted(execution=run, instance="a", name="flow", run=1))
    carried = [encode_event(EventRaised(name="old", at=5))]
    next_run = NextRun(execution=run, started=started, carried=carried, copies=[("ev", "ev2")])
    turn = desk.turn(claimed, events=[ContinuedAsNew()], next_run=next_run)
    assert desk.commit(turn).ready
    assert desk.commit(turn).replayed
    assert desk.history() == []
    assert desk.complete(claimed, 1) == "GONE"
    assert desk.store.client.exists(desk.keys.pay(first.execution), desk.keys.open(first.execution)) == 0
    assert desk.store.run(payloads.fetch(desk.keys, run, ["ev2", "later"])) == [big, big]
    claimed = desk.claim_one()
    assert (claimed.execution, claimed.run, claimed.history_length) == (run, 1, 0)
    desk.commit(desk.turn(claimed))
    assert names(desk.history()) == ["ExecutionStarted", "EventRaised", "EventRaised"]


def test_a_completion_of_the_old_run_closes_nothing_in_the_next(desk: Any) -> None:
    """Between claim and commit a step of the old run completes: its seq is used again by the next run."""
    desk.start()
    desk.step(**desk.activity(0), timers=[(1, 1)])
    raise_event(desk)
    claimed = desk.claim_one()
    assert desk.complete(claimed, 0) == "OK"
    assert desk.store.run(turns.fire_timers(desk.keys, now=desk.now))[0] == 1
    raise_event(desk)
    assert len(desk.inbox()) == 4
    run = new_execution()
    started = open_text(ExecutionStarted(execution=run, instance="a", name="flow", run=1))
    desk.commit(
        desk.turn(claimed, events=[ContinuedAsNew()], next_run=NextRun(execution=run, started=started))
    )
    assert [type(e).__name__ for e in desk.inbox()] == ["ExecutionStarted", "EventRaised"]


def test_the_end_is_published(desk: Any) -> None:
    subscription = desk.store.client.pubsub()
    subscription.subscribe(desk.keys.ended("a"))
    assert subscription.get_message(timeout=5)["type"] == "subscribe"
    desk.start()
    desk.end()
    assert subscription.get_message(timeout=5)["data"] == b"Completed"
    subscription.close()
