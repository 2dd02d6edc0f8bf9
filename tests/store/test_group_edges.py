"""Edges of groups that the model of five parts does not reach."""

from __future__ import annotations

from typing import Any

from celeriac.celery_app.store import instances, payloads, steps, turns
from celeriac.celery_app.store.records import GroupOpen, OpenedStep, open_text
from celeriac.orchestrations.history import EventRaised, PartOutcome, TaskCompleted, decode_event

FAILED = b'{"number":1,"at":1,"error_type":"E","message":"no"}'


def opened(desk: Any, size: int, window: int) -> Any:
    """Instance `a` with a group of that size, its first window emitted."""
    desk.start()
    claimed = desk.claim_one()
    parts = [OpenedStep(n, desk.queue, b"m", group=0) for n in range(min(size, window))]
    desk.commit(desk.turn(claimed, groups=[GroupOpen(0, size, window, len(parts))], messages=parts))
    return claimed


def outcome(desk: Any, claimed: Any, index: int, part: PartOutcome, attempt: int = 1) -> Any:
    return steps.complete(
        desk.keys, "a", claimed.execution, index, attempt,
        success=True, text=open_text(part), index=index, now=desk.now,
    )  # fmt: skip


def wake(desk: Any) -> Any:
    text = open_text(EventRaised(name="go"))
    desk.store.run(instances.raise_event(desk.keys, "a", text, now=desk.now))
    return desk.claim_one()


def test_an_outcome_without_a_result_takes_its_attempts(desk: Any) -> None:
    claimed = opened(desk, 2, 2)
    retry = steps.retry(
        desk.keys, "a", claimed.execution, 0, 1, due=desk.now, queue_key=desk.queue, message=b"m",
        failed=FAILED, now=desk.now,
    )  # fmt: skip
    assert desk.store.run(retry) == "OK"
    for call in (outcome(desk, claimed, 0, PartOutcome(), 2), outcome(desk, claimed, 1, PartOutcome())):
        assert desk.store.run(call) == "OK"
    first, second = desk.store.run(payloads.group_outcomes(desk.keys, claimed.execution, 0, 0, 2))
    assert (first.result, len(first.attempts)) == (None, 1)
    assert second == PartOutcome()


def test_parts_closed_by_a_later_commit_make_room_for_the_next_window(desk: Any) -> None:
    claimed = opened(desk, 6, 4)
    desk.commit(desk.turn(wake(desk), dissolve=[0]))
    turn = desk.turn(wake(desk), close=[0, 1])
    assert desk.commit(turn).ready
    assert desk.inbox() == ["E0"]
    assert desk.open(claimed.execution)["g0i"] == "2"


def test_very_many_joined_parts_are_spilled_in_bounded_steps(desk: Any) -> None:
    claimed = opened(desk, 1200, 1200)
    replies = desk.store.run_all([outcome(desk, claimed, n, PartOutcome(result=str(n))) for n in range(1150)])
    assert set(replies) == {"OK"}
    held = wake(desk)
    desk.commit(desk.turn(held, dissolve=[0]))
    taken: list[bytes] = []
    while len(taken) < 1150:
        desk.store.run(turns.sweep(desk.keys, now=desk.now))
        (again,) = desk.claim()
        taken += again.inbox
        desk.commit(desk.turn(again))
    events = [decode_event(text) for text in taken]
    assert [event.seq for event in events if isinstance(event, TaskCompleted)] == list(range(1150))
    late = outcome(desk, claimed, 1199, PartOutcome(result="1"))
    assert desk.store.run(late) == "OK"
    assert [type(event) for event in desk.inbox()] == [TaskCompleted]
