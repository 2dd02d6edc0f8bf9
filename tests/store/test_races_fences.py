"""Races of who was fenced, and of controls that wait unread; each found by reading and kept as its story."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.store import FencedError, GoneError, instances, payloads, turns
from celeriac.celery_app.store.records import NextRun, new_execution, open_text
from celeriac.orchestrations.history import (
    CancelRequested,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
)


def test_who_lost_its_claim_writes_over_no_payload_of_the_next_claimant(desk: Any) -> None:
    """Both turns name an input `p0i`; the second saw a cancellation first, and its input is another one."""
    desk.start()
    slow = desk.claim_one()
    desk.now += 20_000
    desk.incarnation = "o2"
    desk.beat("o2")
    desk.store.run(turns.sweep(desk.keys, now=desk.now))
    held = desk.claim_one()

    def stage(claimed: Any, text: str) -> None:
        fields = [("p0i", payloads.pack(text))]
        desk.store.run(payloads.stage(desk.keys, "a", claimed.execution, claimed.claim, fields))

    stage(held, '"right"')
    desk.commit(desk.turn(held))
    with pytest.raises(FencedError):
        stage(slow, '"wrong"')
    (blob,) = desk.store.run(payloads.fetch(desk.keys, held.execution, ["p0i"]))
    assert payloads.unpack(blob) == '"right"'


@pytest.mark.parametrize("there", [0, 1, 2, 3])
def test_a_commit_is_refused_when_redis_forgot_what_was_staged_for_it(desk: Any, there: int) -> None:
    """Redis goes back to a time when the first `there` of three calls were there; the rest is sent to it."""
    desk.start()
    held = desk.claim_one()

    def stage(part: int) -> None:
        fields = [(f"p{part}i", payloads.pack(f'"{part}"'))]
        desk.store.run(
            payloads.stage(desk.keys, "a", held.execution, held.claim, fields, part, last=part == 3)
        )

    for part in range(1, there + 1):
        stage(part)
        stage(part)  # the reply was lost
    commit = desk.turn(held, staged=True)
    if there == 1:
        with pytest.raises(FencedError, match="went back in time"):
            stage(3)
    if there < 3:
        before = desk.record()
        with pytest.raises(GoneError, match="went back in time"):
            desk.commit(commit)
        assert desk.record() == before
        for part in (1, 2, 3):  # all of it again
            stage(part)
    stage(1)  # again, late
    assert not desk.commit(commit).replayed
    assert "staged" not in desk.record()
    assert desk.commit(commit).replayed


def test_a_cancel_asked_for_again_resumes_what_the_engine_has_suspended(desk: Any) -> None:
    """The first one is unread: the turn that was to see it was charged."""
    desk.start()
    desk.step()
    desk.store.run(instances.cancel(desk.keys, "a", "", desk.now))
    release = turns.release(
        desk.keys, "a", desk.claim_one().claim, 0, "it blocks", charge=True, most=1, now=desk.now
    )
    desk.store.run(release)
    assert desk.record()["status"] == "Suspended"
    assert desk.store.run(instances.cancel(desk.keys, "a", "", desk.now))
    desk.step()
    told = [type(event) for event in desk.history()[1:]]
    assert told == [CancelRequested, ExecutionSuspended, ExecutionResumed]


def test_a_cancel_asked_for_again_resumes_what_has_not_begun(desk: Any) -> None:
    desk.start()
    for verb in (instances.cancel, instances.suspend, instances.cancel):
        assert desk.store.run(verb(desk.keys, "a", "", desk.now))
    assert desk.record()["status"] == "Pending"
    desk.step()
    assert [type(event) for event in desk.history()] == [ExecutionStarted, CancelRequested]


@pytest.mark.parametrize("end", ["nothing came of it", "continue-as-new"])
def test_a_suspension_told_to_the_first_claim_of_a_run_is_followed_by_its_resume(desk: Any, end: str) -> None:
    """A history that says suspended and never resumed would be a lie."""
    desk.start()
    claimed = desk.claim_one()
    desk.store.run(instances.suspend(desk.keys, "a", "", desk.now))
    if end == "continue-as-new":
        run = new_execution()
        started = open_text(ExecutionStarted(execution=run, instance="a", name="flow", run=1))
        desk.commit(desk.turn(claimed, next_run=NextRun(execution=run, started=started)))
    else:
        desk.store.run(turns.hand_back(desk.keys, "o1", now=desk.now))
    assert desk.claim() == []
    desk.store.run(instances.resume(desk.keys, "a", "", desk.now))
    desk.step()
    desk.step()
    assert [type(event) for event in desk.history()[1:]] == [ExecutionSuspended, ExecutionResumed]
