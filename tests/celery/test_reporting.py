"""What a worker's main process reports: whatever goes wrong with it, the step does not stay as it is."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from kombu.connection import Connection

from celeriac.activities import activity
from celeriac.celery_app.activity_worker.request import ActivityRequest, later


@activity
def add(a: int, b: int) -> int:
    """An activity."""
    return a + b


def test_an_outcome_that_cannot_be_reported_leaves_its_step_to_the_audit(bench: Any) -> None:
    """Unacknowledged, its message would stay with this worker, and the step would be running for ever."""
    execution = bench.start("unreported")
    step = bench.step("unreported", execution, "add", "[[1,2],{}]")
    bench.commit("unreported", execution, messages=[step])
    done = threading.Event()
    with Connection("memory://") as connection:
        message = connection.channel().message_to_python(json.loads(step.message))
        task = bench.app.tasks["add"]
        request = ActivityRequest(
            message, app=bench.app, hostname="w", task=task, on_ack=lambda *_: done.set(),
            on_reject=lambda *_: pytest.fail("it would run again at once, and again"),
        )  # fmt: skip

        def report() -> None:
            raise MemoryError

        later(lambda: request._report(report))
        assert done.wait(30)
    assert bench.open(execution)["1"].startswith("1|")
