"""Races between the scripts, each found by reading and kept here as the story it was."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celeriac.celery_app.store import flights, instances, payloads, steps, turns
from celeriac.celery_app.store.records import ChildStart, NextRun, OpenedStep, new_execution, open_text
from celeriac.orchestrations.history import (
    ExecutionStarted,
    SubOrchestrationInstanceCompleted,
    TaskScheduled,
)


def message(execution: str, attempt: int = 1) -> bytes:
    step = f"{execution}:0:{attempt}"
    return json.dumps({"headers": {"id": f"{step}:a", "celeriac-step": step}}).encode()


def with_one_step(desk: Any) -> str:
    """An instance that waits for one activity; returns its execution."""
    desk.start()
    claimed = desk.claim_one()
    opened = OpenedStep(0, desk.queue, message(claimed.execution))
    desk.commit(desk.turn(claimed, events=[TaskScheduled(seq=0, name="act")], messages=[opened]))
    return claimed.execution


def with_child(desk: Any, close: str = "terminate") -> Any:
    """A parent `a` and its child `kid`, claimed."""
    desk.start()
    parent = desk.claim_one()
    started = ExecutionStarted(execution=new_execution(), instance="kid", name="flow", parent="a")
    desk.commit(desk.turn(parent, children=[ChildStart.of(started, seq=0, close=close)]))
    return parent, desk.claim_one()


@pytest.mark.parametrize("timers", [3000, 9000])
def test_very_many_open_steps_of_an_ended_run_are_cleaned(desk: Any, timers: int) -> None:
    """HSCAN from 0 gives up after 2,000 empty buckets: one that begins anew each time never gets further."""
    desk.start()
    claimed = desk.claim_one()
    due = desk.now + 10**9
    desk.commit(desk.turn(claimed, timers=[(seq, due) for seq in range(timers)]))
    desk.store.run(instances.terminate(desk.keys, "a", "", desk.now))
    for _ in range(timers // 100):
        desk.now += 1000
        desk.beat("o1")
        if not desk.store.run(turns.sweep(desk.keys, now=desk.now)).more:
            break
    assert desk.store.client.hlen(desk.keys.open(f"~{claimed.execution}")) == 0
    assert desk.store.client.zcard(desk.keys.path("timers")) == 0


def test_a_child_that_continues_as_new_ends_with_its_parent(desk: Any) -> None:
    """The closing list names the child; by the time it is read the child is in its next run."""
    _, kid = with_child(desk)
    desk.store.run(instances.terminate(desk.keys, "a", "", desk.now))
    run = new_execution()
    started = open_text(ExecutionStarted(execution=run, instance="kid", name="flow", parent="a", run=1))
    desk.commit(desk.turn(kid, next_run=NextRun(execution=run, started=started)))
    desk.store.run(turns.sweep(desk.keys, now=desk.now))
    assert desk.record("kid")["status"] == "Terminated"


@pytest.mark.parametrize(("end", "verdict"), [("Cancelled", ("Running", 1)), ("Failed", ("Terminated", 0))])
def test_what_happens_to_the_parent_happens_to_the_child(
    desk: Any, end: str, verdict: tuple[str, int]
) -> None:
    """A child of a cancelled parent is cancelled, so that it can undo its work too."""
    desk.start()
    parent = desk.claim_one()
    started = ExecutionStarted(execution=new_execution(), instance="kid", name="flow", parent="a")
    desk.commit(desk.turn(parent, children=[ChildStart.of(started, seq=0, close="terminate")]))
    desk.commit(desk.turn(desk.claim_one()))
    assert desk.store.run(instances.cancel(desk.keys, "a", "", desk.now))
    desk.commit(desk.turn(desk.claim_one(), status=end))
    desk.store.run(turns.sweep(desk.keys, now=desk.now))
    waiting = desk.store.client.llen(f"{desk.keys.hub}:control:kid")
    assert (desk.record("kid")["status"], waiting) == verdict
    if verdict[1]:
        desk.store.run(instances.terminate(desk.keys, "kid", "", desk.now))


def test_a_late_child_leaves_no_payload_with_a_purged_parent(desk: Any) -> None:
    _, kid = with_child(desk, close="abandon")
    parent_execution = desk.record("a")["execution"]
    desk.store.run(instances.terminate(desk.keys, "a", "", desk.now))
    desk.store.run(instances.purge(desk.keys, "a", desk.now))
    desk.store.run(
        payloads.stage(desk.keys, "kid", kid.execution, kid.claim, [("po", payloads.pack('"big"'))])
    )
    event = open_text(SubOrchestrationInstanceCompleted(seq=0, result="@p0r"))
    end = {"status": "Completed", "output": "@po", "parent_event": event, "parent_copies": [("po", "p0r")]}
    desk.commit(desk.turn(kid, **end))
    assert desk.store.client.exists(desk.keys.pay(parent_execution)) == 0


def test_a_retry_waits_while_its_queue_is_another_type(desk: Any) -> None:
    """Promotion writes nothing before it knows that the message can be pushed."""
    execution = with_one_step(desk)
    store, keys, queue = desk.store, desk.keys, f"{desk.queue}x"
    again = message(execution, 2)
    parked = {"due": desk.now, "queue_key": queue, "message": again, "failed": b"{}", "now": desk.now}
    store.run(steps.retry(keys, "a", execution, 0, 1, **parked))
    store.client.set(queue, "a user's string")
    assert store.run(flights.promote(keys, now=desk.now))[0] == 0
    assert desk.open(execution)["0"].startswith("2|p")
    store.client.delete(queue)
    assert store.run(flights.promote(keys, now=desk.now + 5000))[0] == 1
    assert store.client.lrange(queue, 0, -1) == [again]
    store.run(instances.terminate(keys, "a", "", desk.now))
    store.client.delete(queue)


def test_one_unusable_queue_does_not_hold_up_the_others(desk: Any) -> None:
    """Two workers died; the key of one's queue holds another type by now."""
    store, keys = desk.store, desk.keys
    queues = {"w1": f"{desk.queue}1", "w2": f"{desk.queue}2"}
    for worker, queue in queues.items():
        store.run(flights.publish(keys, queue, b"{}"))
        store.run(flights.beat(keys, worker, 2000, join=True, now=desk.now))
        store.run(flights.take(keys, worker, 0, 1, [(queue, 1)], now=desk.now))
    store.client.set(queues["w1"], "a user's string")
    desk.now += 5000
    store.run(flights.sweep_flights(keys, now=desk.now))
    assert store.client.llen(queues["w2"]) == 1
    store.client.delete(queues["w1"])
    store.run(flights.sweep_flights(keys, now=desk.now))
    assert store.client.llen(queues["w1"]) == 1
    while store.run(flights.sweep_flights(keys, now=desk.now)).forgotten == 0:
        continue
    store.run(flights.sweep_flights(keys, now=desk.now))
    store.client.delete(*queues.values())


def test_a_sign_of_life_after_the_give_back_arms_nothing(desk: Any) -> None:
    """A paused worker wakes, sends one heartbeat and dies: its step is queued and must not time out."""
    execution = with_one_step(desk)
    store, keys = desk.store, desk.keys
    store.run(flights.beat(keys, "w1", 2000, join=True, now=desk.now))
    store.run(flights.take(keys, "w1", 0, 1, [(desk.queue, 1)], now=desk.now))
    store.run(steps.arm(keys, "a", execution, 0, 1, beat_in=3000, now=desk.now))
    desk.now += 2500
    store.run(flights.sweep_flights(keys, now=desk.now))
    assert store.run(steps.arm(keys, "a", execution, 0, 1, beat_in=3000, starts=False, now=desk.now))
    store.run(flights.sweep_flights(keys, now=desk.now))
    desk.now += 3500
    desk.beat("o1")
    assert store.run(turns.sweep(keys, now=desk.now)).lapsed == []
    store.run(instances.terminate(keys, "a", "", desk.now))
    store.client.delete(desk.queue)
