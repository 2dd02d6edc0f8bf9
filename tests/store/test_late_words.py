"""What comes late finds a check behind the check: an older attempt, an earlier run, a copy of a message."""

from __future__ import annotations

from typing import Any

import audit_desk

from celeriac.celery_app.store import audit, instances, steps, turns
from celeriac.celery_app.store.records import NextRun, new_execution, open_text
from celeriac.orchestrations.history import ExecutionStarted, TimerCreated


def test_a_late_failure_of_an_older_attempt_parks_nothing(desk: Any) -> None:
    desk.start()
    claimed = desk.step(**desk.activity(1))

    def fail(attempt: int) -> str:
        failed = b'{"number":%d,"at":1,"error_type":"E","message":""}' % attempt
        return desk.store.run(
            steps.retry(
                desk.keys, "a", claimed.execution, 1, attempt, due=desk.now + 50, queue_key=desk.queue,
                message=b"again", failed=failed, start_by=0, now=desk.now,
            )
        )  # fmt: skip

    assert [fail(1), fail(2)] == ["OK", "OK"]
    before = desk.open(claimed.execution)
    assert before["1"].startswith("3|p")
    assert fail(1) == "STALE"
    assert desk.open(claimed.execution) == before
    desk.complete(claimed, 1, attempt=3)


def test_a_timer_of_an_earlier_run_that_is_still_being_cleaned_up_fires_for_nobody(desk: Any) -> None:
    """More open steps than are cleaned at once: their timers stay for a while, and may be due."""
    desk.start()
    desk.commit(desk.turn(desk.claim_one(), timers=[(seq, desk.now + 100) for seq in range(600)]))
    desk.store.run(instances.cancel(desk.keys, "a", "", desk.now))
    run = new_execution()
    started = open_text(ExecutionStarted(execution=run, instance="a", name="flow", run=1))
    claimed = desk.claim_one()
    desk.commit(desk.turn(claimed, next_run=NextRun(execution=run, started=started)))
    desk.now += 200
    desk.store.run(turns.fire_timers(desk.keys, 1000, now=desk.now))
    assert [type(event).__name__ for event in desk.inbox()] == ["ExecutionStarted"]
    for _ in range(10):
        desk.store.run(turns.sweep(desk.keys, now=desk.now))
    desk.store.run(instances.terminate(desk.keys, "a", "", desk.now))


def test_a_timer_that_was_cancelled_after_the_audit_saw_it_is_not_listed_again(desk: Any) -> None:
    desk.start()
    due = desk.now + 500
    claimed = desk.step(events=[TimerCreated(seq=1, due=due)], timers=[(1, due)])
    desk.store.client.delete(desk.keys.timers)
    (suspect,) = audit_desk.look(desk).suspects
    desk.store.run(instances.cancel(desk.keys, "a", "", desk.now))
    desk.commit(desk.turn(desk.claim_one(), untimers=[1]))
    assert "1" not in desk.open(claimed.execution)
    assert desk.store.run(audit.retime(desk.keys, suspect, due)) == "GONE"
    assert desk.store.client.exists(desk.keys.timers) == 0


def test_a_restart_whose_reply_was_lost_restarts_once(desk: Any) -> None:
    """Sent again it finds its own run, even one that has ended."""
    desk.start()
    desk.end()
    call = instances.restart(desk.keys, "a", now=desk.now)
    first = desk.store.run(call)
    assert desk.store.run(call) == first
    desk.end()
    assert desk.store.run(call) == first
    assert desk.record()["status"] == "Completed"
