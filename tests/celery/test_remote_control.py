"""Celery's remote control over our transport, for a Celery app of its own that has it on.

Workers of Celeriac have it off (reliability.md 6.14); the transport must carry it all the same: replies and
broadcasts go through channels without acknowledgement, beside the durable one that takes tasks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from celeriac.celery_app.activity_worker.imposed import TRANSPORT, TRANSPORT_ALIAS
from celeriac.celery_app.settings import Settings

APP = """
import os, time
from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

TRANSPORT_ALIASES.setdefault(os.environ["ALIAS"], os.environ["TRANSPORT"])
app = Celery("controlled", broker=os.environ["BROKER"])
app.conf.update(broker_transport=os.environ["ALIAS"], broker_transport_options={"hub": os.environ["HUB"]},
                task_default_queue=os.environ["HUB"], task_acks_late=True)

@app.task(name="own.hold", ignore_result=True)
def hold(path):
    open(path + ".began", "w").close()
    while not os.path.exists(path):
        time.sleep(0.02)
"""


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


@pytest.fixture(params=["prefork", "threads", "solo"])
def pool(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def controlled(pool: str, redis_server: Any, tmp_path: Path) -> Iterator[Celery]:
    """The app, with a worker of this pool."""
    settings = Settings(redis_url=redis_server.url, hub=f"rc{os.urandom(3).hex()}")
    url = settings.celery_broker_url.replace("redis+socket://", f"{TRANSPORT_ALIAS}+socket://", 1)
    variables = {"BROKER": url, "HUB": settings.hub, "ALIAS": TRANSPORT_ALIAS, "TRANSPORT": TRANSPORT}
    (tmp_path / "controlled.py").write_text(APP)
    TRANSPORT_ALIASES.setdefault(TRANSPORT_ALIAS, TRANSPORT)
    log = (tmp_path / "worker.log").open("wb")
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "controlled", "worker", "-P", pool, "-c", "2",
         "-n", "one@here", "-l", "INFO"],
        cwd=tmp_path, env={**os.environ, **variables}, stdout=log, stderr=log,
    )  # fmt: skip
    log.close()
    # Without its task: Celery would give that to every other app of this process.
    app = Celery("controller", broker=url, set_as_current=False)
    app.conf.update(broker_transport=TRANSPORT_ALIAS, broker_transport_options={"hub": settings.hub})
    try:
        yield app
    finally:
        app.close()
        worker.terminate()
        worker.wait(60)


def test_a_worker_answers_and_obeys(controlled: Celery, pool: str, tmp_path: Path) -> None:
    """Ping, registered, active; a queue that it is told of is consumed at once."""
    inspect = controlled.control.inspect(destination=["one@here"], timeout=2)
    assert until(inspect.ping, "no answer to ping") == {"one@here": {"ok": "pong"}}
    assert until(inspect.registered, "no answer")["one@here"] == ["own.hold"]

    told = controlled.control.add_consumer("elsewhere", destination=["one@here"], reply=True, timeout=20)
    assert "ok" in told[0]["one@here"]
    gate = tmp_path / "gate"
    controlled.send_task("own.hold", [str(gate)], queue="elsewhere")
    until((tmp_path / "gate.began").exists, "the task of the new queue did not begin")
    if pool != "solo":  # whose loop, which would answer, runs the task
        (active,) = until(lambda: inspect.active(), "no answer")["one@here"]
        assert (active["name"], active["delivery_info"]["routing_key"]) == ("own.hold", "elsewhere")
    gate.touch()
    until(lambda: not until(inspect.active, "no answer")["one@here"], "the task did not end")
