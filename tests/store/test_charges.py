"""Charged, suspended by the engine, resumed: the scripts behind poisonous code."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.store import FencedError, audit, instances, turns
from celeriac.celery_app.store.records import open_text
from celeriac.orchestrations.history import EventRaised, ExecutionResumed, ExecutionSuspended, encode_event


def release(desk: Any, claimed: Any, delay: int = 60_000, **more: Any) -> bool:
    call = turns.release(desk.keys, "a", claimed.claim, delay, "it blocks", now=desk.now, **more)
    return desk.store.run(call)


def control(desk: Any, verb: Any) -> bool:
    return desk.store.run(verb(desk.keys, "a", "by hand", desk.now))


def test_a_charge_counts_and_the_next_claim_is_alone(desk: Any) -> None:
    desk.start()
    desk.start("b")
    (claimed, other) = desk.claim()
    assert not release(desk, claimed, charge=True, most=3)
    desk.store.run(turns.release(desk.keys, "b", other.claim, 60_000, "", now=desk.now))
    desk.now += 60_000
    (claimed,) = desk.claim()
    assert (claimed.instance, claimed.alone, claimed.crashes) == ("a", True, 1)
    desk.commit(desk.turn(claimed))
    assert "crashes" not in desk.record()


def test_the_last_charge_suspends_with_its_reason_and_nothing_makes_it_ready(desk: Any) -> None:
    desk.start()
    desk.step()
    desk.store.run(instances.raise_event(desk.keys, "a", open_text(EventRaised(name="x")), now=desk.now))
    for count in range(3):
        claimed = desk.claim_one()
        assert claimed.crashes == count
        assert release(desk, claimed, 0, charge=True, most=3) == (count == 2)
    record = desk.record()
    assert (record["status"], record["stage"], record["reason"]) == ("Suspended", "0", "it blocks")
    desk.store.run(instances.raise_event(desk.keys, "a", open_text(EventRaised(name="x")), now=desk.now))
    desk.now += 1_000_000
    assert desk.claim() == []  # not even to record that it is suspended: that would need its code


def test_a_resume_starts_the_count_anew_and_both_are_recorded(desk: Any) -> None:
    desk.start()
    desk.step()
    desk.store.run(instances.raise_event(desk.keys, "a", open_text(EventRaised(name="x")), now=desk.now))
    assert release(desk, desk.claim_one(), charge=True, most=1)
    assert control(desk, instances.resume)
    claimed = desk.claim_one()
    assert (claimed.crashes, claimed.alone, claimed.suspended) == (0, True, False)
    wanted = [
        ExecutionSuspended(reason="it blocks", at=desk.now),
        ExecutionResumed(reason="by hand", at=desk.now),
    ]
    assert claimed.controls == [encode_event(event) for event in wanted]
    assert not {"held", "waiting", "crashes", "suspended"} & desk.record().keys()
    release(desk, claimed)


def test_a_resume_meanwhile_outruns_the_charge(desk: Any) -> None:
    """The count is kept by the store: a process that has seen too many does not have the last word."""
    desk.start()
    for _ in range(2):
        release(desk, desk.claim_one(), 0, charge=True)
    claimed = desk.claim_one()
    control(desk, instances.suspend)
    control(desk, instances.resume)
    assert not release(desk, claimed, 0, charge=True, most=3)
    claimed = desk.claim_one()
    assert claimed.crashes == 1
    release(desk, claimed)


@pytest.mark.parametrize("verb", ["resume", "cancel", "event", "rouse"])
def test_what_waits_is_tried_at_once_when_somebody_asks(desk: Any, verb: str) -> None:
    desk.start()
    desk.step()
    desk.store.run(instances.raise_event(desk.keys, "a", open_text(EventRaised(name="x")), now=desk.now))
    release(desk, desk.claim_one())
    desk.now += 1
    assert desk.claim() == []
    before = desk.store.client.llen(desk.keys.wake)
    if verb == "event":
        event = open_text(EventRaised(name="y"))
        desk.store.run(instances.raise_event(desk.keys, "a", event, now=desk.now))
    elif verb == "rouse":
        assert desk.store.run(turns.rouse(desk.keys, now=desk.now)) == 1
    else:
        control(desk, getattr(instances, verb))
    assert desk.store.client.llen(desk.keys.wake) == before + 1
    release(desk, desk.claim_one())


def test_what_was_due_earlier_keeps_its_place(desk: Any) -> None:
    desk.start()
    due = desk.store.client.zscore(desk.keys.ready, "a")
    desk.now += 1000
    control(desk, instances.cancel)
    assert desk.store.run(turns.rouse(desk.keys, now=desk.now)) == 0
    assert desk.store.client.zscore(desk.keys.ready, "a") == due


def test_only_the_holder_of_the_claim_may_charge(desk: Any) -> None:
    desk.start()
    claimed = desk.claim_one()
    desk.commit(desk.turn(claimed))
    with pytest.raises(FencedError):
        release(desk, claimed, charge=True, most=1)
    assert desk.record()["status"] == "Running"


def test_the_accused_is_claimed_alone_in_its_run_only(desk: Any) -> None:
    desk.start()
    claimed = desk.step()
    assert not desk.store.run(turns.accuse(desk.keys, "a", "0" * 16))
    assert desk.store.run(turns.accuse(desk.keys, "a", claimed.execution))
    control(desk, instances.cancel)
    assert desk.claim_one().alone
    desk.store.run(instances.terminate(desk.keys, "a", now=desk.now))
    assert not desk.store.run(turns.accuse(desk.keys, "a", claimed.execution))


def test_the_audit_leaves_alone_what_waits_for_a_resume(desk: Any) -> None:
    """Though there are controls to be recorded: that would need its code."""
    desk.start()
    desk.step()
    control(desk, instances.suspend)
    assert release(desk, desk.claim_one(), charge=True, most=1)
    for _ in range(3):
        desk.store.run(audit.audit(desk.keys, now=desk.now))
        desk.now += 600_000
    assert desk.store.run(audit.mended(desk.keys)) == {}
    assert desk.claim() == []
    control(desk, instances.resume)
    claimed = desk.claim_one()
    assert len(claimed.controls) == 2
    release(desk, claimed)
