"""A worker on kombu's own Redis transport consumes what the engine emits; slower, but right."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from celeriac.celery_app.settings import Settings
from celeriac.orchestrations.history import GroupCompleted
from celeriac.orchestrations.retry import RetryPolicy


@pytest.fixture(scope="module")
def stock(workers: Any, bench_settings: Settings) -> str:
    """A running stock worker; its queue."""
    queue = f"{bench_settings.queue}.stock"
    workers.start("prefork", "-Q", queue, settings=dataclasses.replace(bench_settings, transport="stock"))
    return queue


def test_success_retry_and_group(bench: Any, stock: str, tmp_path: Path) -> None:
    log = tmp_path / "runs"
    retry = RetryPolicy(timedelta(milliseconds=50), max_number_of_attempts=2).to_json()
    bench.call("one", "add", "[[1,2],{}]", queue=stock, priority=7)
    bench.call("two", "fail", json.dumps([["value", str(log)], {}]), queue=stock, retry=retry)
    bench.group("three", [("add", f"[[{i},1],{{}}]") for i in range(5)], queue=stock)
    assert bench.outcome("one").result == "3"
    assert len(bench.outcome("two").attempts) == 1
    assert log.read_text() == "xx"
    event = bench.outcome("three")
    assert event == GroupCompleted(seq=1, failed=0, at=event.at)


def test_a_message_whose_step_has_ended_does_not_run(bench: Any, stock: str, tmp_path: Path) -> None:
    log = tmp_path / "runs"
    call = json.dumps([[0, str(log)], {}])
    execution = bench.call("ended", "sleep", call, queue=stock)
    assert bench.outcome("ended").result == '"slept"'
    step = bench.step("ended", execution, "sleep", call, queue=stock)
    bench.store.client.lpush(step.queue_key, step.message)
    bench.call("behind", "add", "[[1,2],{}]", queue=stock)
    assert bench.outcome("behind").result == "3"
    bench.wait_for(lambda: bench.store.client.hlen("unacked") == 0)
    assert log.read_text() == "x"


def test_two_copies_of_a_message_run_once(bench: Any, stock: str, tmp_path: Path) -> None:
    """The audit sends a step again that a worker holds in its memory: the second copy finds it running."""
    log = tmp_path / "runs"
    call = json.dumps([[2, str(log)], {}])
    execution = bench.call("twice", "sleep", call, queue=stock)
    bench.wait_for(lambda: "|r|stock-" in bench.open(execution)["1"])
    step = bench.step("twice", execution, "sleep", call, queue=stock)
    bench.store.client.lpush(step.queue_key, step.message)
    assert bench.outcome("twice").result == '"slept"'
    bench.wait_for(lambda: bench.store.client.hlen("unacked") == 0)
    assert log.read_text() == "x"
