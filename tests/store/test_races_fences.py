"""Races of who was fenced, and of controls that wait unread; each found by reading and kept as its story."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.store import FencedError, instances, payloads, turns
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
