"""The backend's methods, called as Celery calls them: contradictory reports, and foreign tasks."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from celery.app.task import Context
from celery.exceptions import TimeLimitExceeded

from celeriac.celery_app.activity_worker.backend import Backend
from celeriac.celery_app.messages import GroupRef
from celeriac.celery_app.store.records import GroupOpen
from celeriac.orchestrations.errors import ActivityWorkerLostError
from celeriac.orchestrations.history import TaskCompleted, TaskFailed
from celeriac.orchestrations.retry import RetryPolicy


@pytest.fixture(scope="module")
def backend(bench: Any) -> Backend:
    made = bench.app.backend
    assert isinstance(made, Backend)
    return made


def opened(bench: Any, instance: str, **options: Any) -> tuple[str, Context]:
    """An open step and the request that a worker has of it."""
    execution = bench.start(instance)
    step = bench.step(instance, execution, "add", "[[1,2],{}]", **options)
    bench.commit(instance, execution, messages=[step])
    return request_of(step.message)


def request_of(message: bytes) -> tuple[str, Context]:
    headers = json.loads(message)["headers"]
    return headers["id"], Context({**headers, "args": ["[[1,2],{}]"], "kwargs": {}, "chord": None})


def test_a_failure_reported_twice_is_one_failure(bench: Any, backend: Backend) -> None:
    task_id, request = opened(bench, "twice", timeout=3000)
    for _ in range(2):
        backend.mark_as_failure(task_id, TimeLimitExceeded(3.0), request=request)
    (event,) = bench.inbox("twice")
    assert isinstance(event, TaskFailed)
    assert "its timeout of 3 s" in event.failure.message


def test_a_retry_reported_twice_parks_once(bench: Any, backend: Backend) -> None:
    retry = RetryPolicy(timedelta(hours=1)).to_json()
    task_id, request = opened(bench, "parked", retry=retry)
    for _ in range(2):
        backend.mark_as_failure(task_id, ValueError("no"), request=request)
    execution = task_id.split(":")[0]
    assert bench.open(execution)["1"].startswith("2|p")
    assert bench.open(execution)["f1"].count("ValueError") == 1
    assert bench.inbox("parked") == []


def test_the_first_of_contradictory_reports_wins(bench: Any, backend: Backend) -> None:
    task_id, request = opened(bench, "both")
    backend.mark_as_done(task_id, "3", request)
    backend.mark_as_failure(task_id, ValueError("late"), request=request)
    (event,) = bench.inbox("both")
    assert event == TaskCompleted(seq=1, result="3", at=event.at)


def test_a_late_success_wins_and_a_late_failure_does_not(bench: Any, backend: Backend) -> None:
    retry = RetryPolicy(timedelta(hours=1)).to_json()
    task_id, request = opened(bench, "late", retry=retry)
    backend.mark_as_failure(task_id, ValueError("first"), request=request)
    backend.mark_as_failure(task_id, ValueError("again"), request=request)
    backend.mark_as_done(task_id, "3", request)
    (event,) = bench.inbox("late")
    assert isinstance(event, TaskCompleted)
    assert [a.message for a in event.attempts] == ["first"]


def test_revoked_through_celery_counts_as_a_lost_process(bench: Any, backend: Backend) -> None:
    task_id, request = opened(bench, "revoked")
    backend.mark_as_revoked(task_id, "terminated", None)  # as every worker does at a broadcast: nothing to do
    assert bench.inbox("revoked") == []
    backend.mark_as_revoked(task_id, "terminated", request)
    note = bench.open(task_id.split(":")[0])["f1"]
    assert ActivityWorkerLostError.__name__ in note
    assert "terminated" in note


def test_a_failed_part_joins_by_the_chord_call(bench: Any, backend: Backend) -> None:
    execution = bench.start("chord")
    steps = [
        bench.step("chord", execution, "add", "[[1,2],{}]", seq=1 + i, group=GroupRef(f"{execution}:1", i, 2))
        for i in range(2)
    ]
    bench.commit("chord", execution, messages=steps, groups=[GroupOpen(1, 2, 2, 2)])
    for i, step in enumerate(steps):
        task_id, request = request_of(step.message)
        if i:
            backend.on_chord_part_return(request, "FAILURE", ValueError("no"))
        else:
            backend.mark_as_done(task_id, "3", request)
    (event,) = bench.inbox("chord")
    assert event.failed == 1


def test_no_celery_key_comes_from_an_activity(bench: Any, backend: Backend) -> None:
    task_id, request = opened(bench, "keys")
    backend.on_task_call(None, task_id)
    backend.mark_as_started(task_id, pid=1)
    backend.mark_as_retry(task_id, ValueError(), request=request)
    backend.set_chord_size(task_id.rpartition(":1:")[0], 3)
    backend.store_result(task_id, 1, "SUCCESS", request=request)
    backend.mark_as_done(task_id, "3", request)
    execution = task_id.split(":")[0]
    found = list(bench.store.client.scan_iter(f"*{execution}*", count=1000))
    assert [key for key in found if not key.startswith(bench.store.keys.hub.encode())] == []


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's own
def test_a_foreign_task_has_celerys_own_result(backend: Backend) -> None:
    backend.mark_as_done("other-1", 5, Context({"id": "plain-1"}))
    assert backend.get_result("other-1") == 5
    backend.set_chord_size("plain-group", 3)
    assert backend.client.get(backend.get_key_for_group("plain-group", ".s")) == b"3"
    backend.client.delete(backend.get_key_for_group("plain-group", ".s"), backend.get_key_for_task("other-1"))
