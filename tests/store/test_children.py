"""Children: started by a commit, their ends told to the parent, closed when the parent ends."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.store import instances, payloads, turns
from celeriac.celery_app.store.records import ChildStart, Send, new_execution, open_text
from celeriac.orchestrations.history import (
    EventRaised,
    ExecutionStarted,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceFailed,
)


def child(instance: str, seq: int, **more: Any) -> ChildStart:
    event = ExecutionStarted(
        execution=new_execution(), instance=instance, name="child", parent="a", input="@x"
    )
    return ChildStart.of(event, seq=seq, **more)


def family(desk: Any, *children: ChildStart) -> dict[str, Any]:
    """Start parent `a` with these children; returns each one's claim."""
    desk.start("a")
    desk.step(children=list(children))
    return {c.instance: c for c in desk.claim()}


def give_back(desk: Any) -> None:
    desk.store.run(turns.hand_back(desk.keys, desk.incarnation, now=desk.now))


def test_a_child_tells_its_parent_and_brings_its_large_output(desk: Any) -> None:
    desk.start("a")
    parent = desk.claim_one()
    desk.store.run(payloads.stage(desk.keys, "a", parent.execution, parent.claim, [("in", b"=5")]))
    desk.commit(desk.turn(parent, children=[child("b", 3, copies=[("in", "x")])]))
    assert desk.open(parent.execution) == {"3": "c|b"}
    claimed = desk.claim_one()
    assert claimed.parent == "a"
    assert desk.store.run(payloads.fetch(desk.keys, claimed.execution, ["x"])) == [b"=5"]
    desk.store.run(payloads.stage(desk.keys, "b", claimed.execution, claimed.claim, [("out", b"=9")]))
    told = open_text(SubOrchestrationInstanceCompleted(seq=3, result="@c3"))
    turn = desk.turn(
        claimed, status="Completed", output="@out", parent_event=told, parent_copies=[("out", "c3")]
    )
    desk.commit(turn)
    assert desk.inbox("a") == [SubOrchestrationInstanceCompleted(seq=3, result="@c3", at=desk.now)]
    assert desk.store.run(payloads.fetch(desk.keys, parent.execution, ["c3"])) == [b"=9"]
    assert desk.open(parent.execution) == {}


def test_a_child_id_that_runs_fails_that_call_and_not_the_commit(desk: Any) -> None:
    desk.start("b")
    desk.start("a")
    claims = {c.instance: c for c in desk.claim()}
    desk.commit(desk.turn(claims["a"], children=[child("b", 1), child("b", 2, detached=True), child("a", 3)]))
    first, third = desk.inbox("a")
    assert isinstance(first, SubOrchestrationInstanceFailed)
    assert (first.seq, third.seq) == (1, 3)
    assert first.failure.is_caused_by("InstanceExistsError")
    assert desk.record("b")["name"] == "flow"
    give_back(desk)


def test_a_finished_id_is_replaced(desk: Any) -> None:
    desk.start("b")
    desk.end()
    claims = family(desk, child("b", 1))
    assert claims["b"].name == "child"
    give_back(desk)


@pytest.mark.parametrize("end", ["commit", "terminate"])
def test_the_end_of_a_parent_closes_its_children_as_they_were_told(desk: Any, end: str) -> None:
    closes = {"t": "terminate", "c": "cancel", "x": "abandon"}
    claims = family(desk, *(child(i, n, close=close) for n, (i, close) in enumerate(closes.items(), 1)))
    for claimed in claims.values():
        desk.commit(desk.turn(claimed))
    if end == "commit":
        text = open_text(EventRaised(name="go"))
        desk.store.run(instances.raise_event(desk.keys, "a", text, now=desk.now))
        desk.end()
    else:
        desk.store.run(instances.terminate(desk.keys, "a", "enough", desk.now))
    assert desk.store.run(turns.sweep(desk.keys, now=desk.now)).closed == 2
    assert desk.record("t")["status"] == "Terminated"
    assert [type(e).__name__ for e in desk.inbox("c")] == []
    (cancelled,) = desk.claim()
    assert (cancelled.instance, len(cancelled.controls)) == ("c", 1)
    assert desk.record("x")["status"] == "Running"
    give_back(desk)


def test_a_child_that_was_replaced_is_not_closed_for_its_predecessor(desk: Any) -> None:
    claims = family(desk, child("b", 1))
    desk.commit(desk.turn(claims["b"]))
    desk.store.run(instances.terminate(desk.keys, "a", now=desk.now))
    desk.start("b", on_conflict="terminate_existing")
    desk.store.run(turns.sweep(desk.keys, now=desk.now))
    assert desk.record("b")["status"] == "Pending"


def test_a_terminated_child_fails_its_parents_call(desk: Any) -> None:
    family(desk, child("b", 1))
    desk.store.run(instances.terminate(desk.keys, "b", 'said "no"', desk.now))
    (failed,) = desk.inbox("a")
    assert isinstance(failed, SubOrchestrationInstanceFailed)
    assert failed.failure.message == 'sub-orchestration b was terminated: said "no"'


def test_very_many_open_steps_are_cleaned_in_bounded_steps(desk: Any) -> None:
    desk.start("a")
    desk.step(
        children=[child(f"b{n}", n) for n in range(20)], timers=[(n, desk.now) for n in range(100, 900)]
    )
    desk.store.run(instances.terminate(desk.keys, "a", now=desk.now))
    rounds = 0
    while desk.store.run(turns.sweep(desk.keys, now=desk.now)).more:
        rounds += 1
    assert rounds > 1
    assert desk.store.client.zcard(desk.keys.timers) == 0
    assert {desk.record(f"b{n}")["status"] for n in range(20)} == {"Terminated"}


def test_events_to_others_arrive_and_those_to_nobody_are_reported(desk: Any) -> None:
    desk.start("b")
    desk.step()
    desk.start("a")
    event = open_text(EventRaised(name="hello", input="@e"))
    claimed = desk.claim_one()
    desk.store.run(payloads.stage(desk.keys, "a", claimed.execution, claimed.claim, [("p", b"=1")]))
    sends = [Send(instance=i, event=event, copies=[("p", "e")]) for i in ("b", "nobody")]
    reply = desk.commit(desk.turn(claimed, sends=sends))
    assert reply.undelivered == ["nobody"]
    (other,) = desk.claim()
    assert len(other.inbox) == 1
    assert desk.store.run(payloads.fetch(desk.keys, other.execution, ["e"])) == [b"=1"]
    give_back(desk)
