"""start, claim, commit, complete and timers: the way of a step."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from celeriac.celery_app.store import ClashError, FencedError, instances, turns
from celeriac.orchestrations.errors import InstanceExistsError
from celeriac.orchestrations.history import TaskCompleted, TimerCreated, TimerFired


def test_a_step_goes_all_the_way(desk: Any) -> None:
    reply = desk.start("a", tags={"k": "v"})
    assert reply.created
    claimed = desk.claim_one()
    assert (claimed.instance, claimed.execution, claimed.status, claimed.history_length) == (
        "a", reply.execution, "Pending", 0,
    )  # fmt: skip
    assert desk.claim() == []
    desk.commit(desk.turn(claimed, **desk.activity(1)))
    assert desk.open(reply.execution) == {"1": f"1|q|1|{desk.queue}|"}
    assert desk.queued() == ["message 1"]
    assert desk.record()["status"] == "Running"
    assert desk.claim() == []
    assert desk.complete(claimed, 1) == "OK"
    assert desk.complete(claimed, 1) == "GONE"
    assert desk.inbox() == [TaskCompleted(seq=1, result="7", at=desk.now)]
    ended = desk.end()
    assert ended.history_length == 2
    record = desk.record()
    assert (record["status"], record["output"], record["stage"]) == ("Completed", "1", "0")
    assert [type(e).__name__ for e in desk.history()] == [
        "ExecutionStarted", "TaskScheduled", "TaskCompleted", "ExecutionCompleted",
    ]  # fmt: skip
    assert desk.store.client.exists(desk.keys.open(reply.execution)) == 0


def test_a_start_sent_twice_starts_once_and_a_running_id_is_refused(desk: Any) -> None:
    request = desk.request("a")
    call = instances.start(desk.keys, request, desk.now)
    assert desk.store.run(call) == desk.store.run(call)
    with pytest.raises(InstanceExistsError, match="with the id a is still running"):
        desk.start("a")
    assert not desk.start("a", on_conflict="use_existing").created
    other = desk.start("a", on_conflict="terminate_existing")
    assert other.created
    assert other.execution != request.execution
    assert desk.claim_one().execution == other.execution
    desk.store.run(turns.hand_back(desk.keys, desk.incarnation, 10, now=desk.now))


def test_a_commit_applied_twice_changes_nothing(desk: Any) -> None:
    desk.start()
    turn = desk.turn(desk.claim_one(), **desk.activity(1))
    assert not desk.commit(turn).replayed
    before = desk.record()
    assert desk.commit(turn).replayed
    assert desk.queued() == ["message 1"]
    assert desk.record() == before


def test_a_commit_is_fenced_by_claim_execution_and_history_length(desk: Any) -> None:
    desk.start()
    claimed = desk.claim_one()
    turn = desk.turn(claimed)
    for change in ({"claim": "o2.1"}, {"base": 7}, {"execution": "f" * 16}):
        with pytest.raises(FencedError):
            desk.commit(msgspec.structs.replace(turn, **change))
    assert desk.history() == []
    desk.commit(turn)


def test_a_queue_key_of_another_type_is_refused_before_anything_is_written(desk: Any) -> None:
    desk.start()
    turn = desk.turn(desk.claim_one(), **desk.activity(1))
    desk.store.client.set(desk.queue, "mine")
    with pytest.raises(ClashError, match=desk.queue):
        desk.commit(turn)
    assert desk.history() == []
    desk.store.client.delete(desk.queue)
    desk.commit(turn)


def test_events_that_come_during_a_turn_make_it_ready_again(desk: Any) -> None:
    desk.start()
    claimed = desk.step(**desk.activity(1))
    desk.complete(claimed, 1)
    claimed = desk.claim_one()
    desk.store.run(instances.raise_event(desk.keys, "a", b'{"k":10,"name":"x"', now=desk.now))
    assert desk.commit(desk.turn(claimed)).ready
    assert len(desk.claim_one().inbox) == 1
    desk.store.run(turns.hand_back(desk.keys, desk.incarnation, 10, now=desk.now))


def test_timers_fire_once_when_due(desk: Any) -> None:
    desk.start()
    desk.step(events=[TimerCreated(seq=1, due=desk.now + 500)], timers=[(1, desk.now + 500)])
    assert desk.store.run(turns.fire_timers(desk.keys, now=desk.now)) == (0, desk.now + 500)
    desk.now += 500
    assert desk.store.run(turns.fire_timers(desk.keys, now=desk.now)) == (1, 0)
    assert desk.inbox() == [TimerFired(seq=1, at=desk.now)]
    desk.end()


def test_an_incarnation_that_does_not_beat_gets_nothing(desk: Any) -> None:
    desk.start()
    with pytest.raises(FencedError, match="does not beat"):
        desk.store.run(turns.claim(desk.keys, "o9", 1, 10, desk.now))


def test_after_script_flush_single_calls_and_pipelines_go_on(desk: Any) -> None:
    calls = [instances.start(desk.keys, desk.request(f"i{n}"), desk.now) for n in range(3)]
    desk.store.client.script_flush()
    assert [r.created for r in desk.store.run_all(calls)] == [True] * 3
    desk.store.client.script_flush()
    assert desk.store.run(calls[0]).created
