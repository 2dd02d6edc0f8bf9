"""What a worker's main process reports: whatever goes wrong with it, the step does not stay as it is."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection

from celeriac.activities import activity
from celeriac.celery_app.activity_worker.request import ActivityRequest, later
from celeriac.orchestrations import RetryPolicy


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


# The reporting thread is in the middle of a property of Celery's, whose lock it holds, when the main process
# forks the child that replaces the dead one.
IN_THE_MIDDLE = """
import os, threading
from celery.app.amqp import AMQP
from acts import die, fail

inside, forked = threading.Event(), threading.Event()
build = AMQP._create_task_sender

def is_reporting(thread):
    return thread.name.startswith("celeriac-outcomes")

def begun():
    return any(map(is_reporting, threading.enumerate()))

def build_slowly(amqp):
    if is_reporting(threading.current_thread()):
        inside.set()
        forked.wait(2)
    return build(amqp)

AMQP._create_task_sender = build_slowly
os.register_at_fork(
    before=lambda: begun() and inside.wait(20), after_in_parent=lambda: begun() and forked.set()
)
"""


def test_a_child_forked_while_a_death_is_reported_can_report_its_failures(
    bench: Any, workers: Any, folder: Path
) -> None:
    """A lock that the reporting thread held would be held in the child for ever."""
    (folder / "middle.py").write_text(IN_THE_MIDDLE)
    worker = workers.start("prefork", "-c", "1", CELERIAC_APP="middle")
    bench.call("dying", "die", f'[["{folder / "deaths"}",1],{{}}]')
    assert bench.outcome("dying", 60).result == "2", workers.log(worker)
    again = RetryPolicy(timedelta(milliseconds=50), 2).to_json()
    bench.call("failing", "fail", '[["value"],{}]', retry=again)
    assert bench.outcome("failing", 60).failure.message == "no such thing"
