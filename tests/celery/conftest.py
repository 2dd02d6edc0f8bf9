"""Real Celery workers on a real Redis, and the activities that they run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, Workers

from celeriac.celery_app.app import create_app
from celeriac.celery_app.emission import Emitter
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # the helpers of this folder, such as attack.py

ACTIVITIES = '''
import os, signal, time
from datetime import timedelta
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celeriac.activities import ActivityContext, activity
from celeriac.celery_app import app
from celeriac.orchestrations.errors import NonRetryableError, RetryAfter

@activity
def add(a: int, b: int) -> int:
    return a + b

@activity
async def add_later(a: int, b: int) -> int:
    return a + b

@activity
def echo(value):
    return value

@activity
def big(size: int) -> str:
    return "x" * size

@activity
def unencodable():
    return object()

@activity
def fail(kind: str, path: str = ""):
    if path:
        with open(path, "a") as log:
            log.write("x")
    errors = {
        "value": ValueError("no such thing"), "never": NonRetryableError("give up"),
        "later": RetryAfter(0.05, "busy"), "ignore": Ignore(), "reject": Reject(requeue=True),
        "exit": SystemExit(3), "memory": MemoryError("full"),
    }
    raise errors[kind]

@activity
async def quit_later():
    raise SystemExit(3)

class Awkward(Exception):
    properties = {"a": "\\udcff", "b": {1, 2}}
    def __str__(self):
        raise KeyError("no text")

@activity
def awkward(kind: str):
    raise Awkward if kind == "text" else ValueError("half \\udcff")

@activity
def die(path: str, times: int) -> int:
    """Takes its process down the first `times` times."""
    with open(path, "a") as log:
        log.write("x")
    if os.path.getsize(path) <= times:
        os._exit(1)
    return os.path.getsize(path)

@activity
def terminated(path: str) -> str:
    """Its process is asked to end the first time."""
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    return "again"

@activity
def sleep(seconds: float, path: str = "") -> str:
    if path:
        with open(path, "a") as log:
            log.write("x")
    time.sleep(seconds)
    return "slept"

@activity
def hang(path: str):
    """Cannot be stopped by the soft limit."""
    open(path, "w").close()
    while True:
        try:
            time.sleep(60)
        except SoftTimeLimitExceeded:
            pass

@activity
def about(context: ActivityContext) -> list:
    context.heartbeat()
    return [context.instance_id, context.seq, context.attempt, context.name, context.is_cancelled(),
            context.deadline is not None]

@activity
def resumes(context: ActivityContext) -> list:
    """Tells how far it is, twice in a row, and fails the first time."""
    before = context.last_heartbeat
    if context.attempt == 1:
        context.heartbeat({"row": 1})
        context.heartbeat({"row": 2})
        raise ValueError("half way")
    return [before, context.last_heartbeat, context.tags]

@activity
def tells_too_much(context: ActivityContext) -> None:
    context.heartbeat("x" * 5000)

def refuse(context):
    return False

def slow_handler(context):
    time.sleep(30)

@app.task(name="plain.add", ignore_result=False)
def plain_add(a, b):
    return a + b
'''


@pytest.fixture(scope="module")
def bench_settings(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A hub and a queue for each test module."""
    name = f"c{os.urandom(3).hex()}"
    return Settings(redis_url=redis_server.url, hub=name, queue=f"q{name}", apps=("acts",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project folder with a module of activities."""
    path = tmp_path_factory.mktemp("project")
    (path / "acts.py").write_text(ACTIVITIES)
    return path


@pytest.fixture(scope="module")
def bench(bench_settings: Settings) -> Iterator[Bench]:
    """Plays the orchestrator."""
    app = create_app(bench_settings, load=False)
    with Store.connect(bench_settings) as store:
        yield Bench(bench_settings, store, Emitter(app, bench_settings), app)
    app.close()


@pytest.fixture(scope="module")
def workers(bench_settings: Settings, folder: Path) -> Iterator[Workers]:
    """Starts workers; all are stopped at the end of the module."""
    made = Workers(bench_settings, folder)
    try:
        yield made
    finally:
        made.stop()
