"""What dead processes held comes back; deadlines are handed out; a suspect is claimed alone."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.store import FencedError, queues, steps, turns
from celeriac.celery_app.store.records import Deadline, Lapsed, OpenedStep


def sweep(desk: Any) -> Any:
    desk.heard()
    return desk.store.run(turns.sweep(desk.keys, now=desk.now))


def give_back(desk: Any, incarnation: str = "o1") -> int:
    return desk.store.run(turns.hand_back(desk.keys, incarnation, now=desk.now))


def test_claims_of_a_dead_orchestrator_come_back_as_suspects(desk: Any) -> None:
    desk.start("a")
    desk.start("b")
    held = desk.claim(incarnation="o2")
    desk.now += 9_000
    assert sweep(desk).claims_back == 0
    desk.now += 2_000
    report = sweep(desk)
    assert (report.claims_back, report.dead) == (2, ["o1", "o2"])
    with pytest.raises(FencedError):
        desk.commit(desk.turn(held[0]))
    (first,) = desk.claim(incarnation="o3")
    assert (first.alone, first.crashes) == (True, 0)
    assert desk.claim(incarnation="o3") == []
    (second,) = desk.claim(incarnation="o4")
    assert second.alone
    desk.commit(desk.turn(first))
    desk.commit(desk.turn(second))
    assert "suspect" not in desk.record(first.instance)


def test_only_a_crash_while_alone_counts(desk: Any) -> None:
    desk.start("a")
    for n, crashes in enumerate((0, 0, 1, 2)):
        (claimed,) = desk.claim(incarnation=f"o{n + 2}")
        assert claimed.crashes == crashes
        assert claimed.alone == (n > 0)
        desk.now += 60_000
        sweep(desk)
    desk.step()
    assert "crashes" not in desk.record()


def test_a_suspect_is_not_claimed_beside_others_but_makes_room_for_itself(desk: Any) -> None:
    desk.start("a")
    desk.claim(incarnation="o2")
    desk.now += 60_000
    desk.start("b")
    desk.now += 1
    sweep(desk)
    desk.start("c")
    held = desk.claim()
    assert {c.instance for c in held} == {"b", "c"}
    assert desk.claim() == []
    desk.now += 1_500
    desk.start("d")
    assert desk.claim() == []  # it has waited for long enough: finish what you hold first
    for claimed in held:
        desk.commit(desk.turn(claimed))
    assert [(c.instance, c.alone) for c in desk.claim()] == [("a", True)]
    give_back(desk)


def test_an_incarnation_is_forgotten_at_the_second_empty_sweep(desk: Any) -> None:
    desk.store.client.hset(desk.keys.procs, "o1", "{}")
    desk.now += 60_000
    assert sweep(desk).dead == ["o1"]
    assert desk.store.client.hexists(desk.keys.procs, "o1")
    assert sweep(desk).dead == []
    assert desk.store.client.zcard(desk.keys.beats) == 0
    assert not desk.store.client.hexists(desk.keys.procs, "o1")


def test_a_graceful_stop_hands_back_without_a_strike(desk: Any) -> None:
    for name in "abc":
        desk.start(name)
    assert len(desk.claim()) == 3
    kept = desk.store.run(turns.hand_back(desk.keys, "o1", known=["b"], now=desk.now))
    assert kept == 2
    assert {c.instance for c in desk.claim(incarnation="o2")} == {"a", "c"}
    assert not any(c.alone for c in desk.claim(incarnation="o2"))
    assert give_back(desk) == 1
    give_back(desk, "o2")


def test_a_released_instance_waits_and_says_why(desk: Any) -> None:
    desk.start()
    claimed = desk.claim_one()
    desk.store.run(
        turns.release(desk.keys, "a", claimed.claim, 5_000, "no worker serves flow 2", now=desk.now)
    )
    assert desk.claim() == []
    assert desk.record()["waiting"] == "no worker serves flow 2"
    desk.now += 5_000
    desk.step()
    assert "waiting" not in desk.record()
    with pytest.raises(FencedError):
        desk.store.run(turns.release(desk.keys, "a", claimed.claim, 0, "", now=desk.now))


def test_a_passed_deadline_goes_to_one_caller_until_its_attempt_is_settled(desk: Any) -> None:
    desk.start()
    message = OpenedStep(1, desk.queue, b"m", deadlines=[Deadline("s", desk.now + 100)])
    claimed = desk.step(messages=[message])
    assert sweep(desk).lapsed == []
    desk.now += 100
    assert sweep(desk).lapsed == [Lapsed("s", claimed.execution, 1, 1, "a")]
    assert sweep(desk).lapsed == []
    desk.now += 10_000
    assert len(sweep(desk).lapsed) == 1
    assert desk.complete(claimed, 1, success=False) == "OK"
    desk.now += 10_000
    assert sweep(desk).lapsed == []
    assert desk.store.client.zcard(desk.keys.deadlines) == 0
    desk.end()


def test_a_retry_keeps_the_last_ten_attempts_and_wakes_nobody(desk: Any) -> None:
    desk.start()
    claimed = desk.step(**desk.activity(1))
    for attempt in range(1, 13):
        failed = b'{"number":%d,"at":1,"error_type":"E","message":"a,\\nb"}' % attempt
        call = steps.retry(
            desk.keys, "a", claimed.execution, 1, attempt, due=desk.now + 50, queue_key=desk.queue,
            message=b"again", failed=failed, start_by=desk.now + 99, now=desk.now,
        )  # fmt: skip
        assert desk.store.run(call) == "OK"
        assert desk.store.run(call) == "OK"
    assert desk.store.client.zcard(desk.keys.parked) == 1
    assert desk.store.client.zcard(desk.keys.deadlines) == 1
    assert desk.inbox() == []
    assert desk.complete(claimed, 1, attempt=5, success=False) == "STALE"
    assert desk.complete(claimed, 1, attempt=5) == "OK"
    (completed,) = desk.inbox()
    assert [attempt.number for attempt in completed.attempts] == list(range(3, 13))
    assert desk.store.client.exists(desk.keys.parked, desk.keys.deadlines, desk.keys.parked_body) == 0


def test_messages_of_a_dead_listener_come_back_with_a_try_counted(desk: Any) -> None:
    queue = desk.keys.hub + "-orders"
    desk.store.run(queues.push(queue, b"1", b"2"))
    desk.beat("t1")
    assert [m.message for m in desk.store.run(queues.take(desk.keys, "t1", queue, 1, 10, desk.now))] == [
        b"1",
        b"2",
    ]
    desk.now += 60_000
    assert sweep(desk).messages_back == 2
    desk.beat("t2")
    again = desk.store.run(queues.take(desk.keys, "t2", queue, 1, 10, desk.now))
    assert [(m.message, m.tries) for m in again] == [(b"1", 1), (b"2", 1)]
    for message in again:
        desk.store.run(
            queues.start_from(desk.keys, "t2", message.number, desk.request(message.message.decode()))
        )
