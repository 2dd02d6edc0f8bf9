"""How a worker starts, and how it refuses to."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import redis

from celeriac.celery_app import embedded
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import views

CHANGE = "from celeriac.celery_app import app\napp.conf.task_acks_late = False\n"
REPLACE = "from celeriac.celery_app import app\napp.conf.broker_transport_options = {'max_connections': 9}\n"


def test_a_worker_with_a_changed_setting_refuses_to_start_and_names_it(workers: Any, folder: Path) -> None:
    (folder / "meddling.py").write_text(CHANGE)
    process = workers.start("solo", wait=False, CELERIAC_APP="meddling")
    assert process.wait(30) == 1
    log = workers.log(process)
    assert "task_acks_late is False, and must be True" in log
    assert "Traceback" not in log


def test_a_worker_whose_transport_options_were_replaced_refuses_to_start(workers: Any, folder: Path) -> None:
    """Its takes would look for the steps of another hub, and drop those of its own."""
    (folder / "replacing.py").write_text(REPLACE)
    process = workers.start("solo", wait=False, CELERIAC_APP="replacing")
    assert process.wait(30) == 1
    assert "broker_transport_options['hub'] is missing" in workers.log(process)


@pytest.mark.parametrize("name", ["no_such_module", "broken"])
def test_a_worker_whose_module_cannot_be_imported_says_which_and_why(
    workers: Any, folder: Path, name: str
) -> None:
    (folder / "broken.py").write_text("import nothing_like_this\n")
    process = workers.start("solo", wait=False, CELERIAC_APP=name)
    assert process.wait(30) != 0
    assert name in workers.log(process)


def test_a_worker_serves_the_queues_that_its_activities_name(bench: Any, workers: Any, folder: Path) -> None:
    queue = f"{bench.settings.queue}.own"
    (folder / "own.py").write_text(
        f"from celeriac.activities import activity\n@activity(queue={queue!r})\ndef own(): return 1\n"
    )
    workers.start("solo", CELERIAC_APP="own")
    bench.call("own", "own", "[[],{}]", queue=queue)
    assert bench.outcome("own").result == "1"


STEADY = """
import sys, threading, time
from celery import signals
from acts import die

@signals.worker_ready.connect(weak=False)
def watch(**_):
    known = set(sys.modules)
    def look():
        while True:
            with open("imported", "w") as file:
                file.write(" ".join(sorted(set(sys.modules) - known)))
            time.sleep(0.1)
    threading.Thread(target=look, daemon=True).start()
"""


def test_reporting_a_dead_child_imports_nothing(bench: Any, workers: Any, folder: Path) -> None:
    """A child forked meanwhile would inherit the import lock and wait for it for ever."""
    (folder / "steady.py").write_text(STEADY)
    workers.start("prefork", before=("--quiet",), CELERIAC_APP="steady")  # as `celeriac worker` starts it
    bench.call("dying", "die", f'[["{folder / "deaths"}",1],{{}}]')
    assert bench.outcome("dying", 40).result == "2"
    assert (folder / "imported").read_text() == ""


def test_a_redis_that_evicts_is_refused(workers: Any, tmp_path: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="clr"))  # short: socket paths are limited
    with embedded.start(directory) as evicting:
        client = redis.Redis.from_url(evicting.url)
        client.config_set("maxmemory-policy", "allkeys-lru")
        process = workers.start(
            "prefork", wait=False, settings=Settings(redis_url=evicting.url, apps=("acts",))
        )
        assert process.wait(30) == 1
        client.close()
    shutil.rmtree(directory)
    log = workers.log(process)
    assert "maxmemory-policy is allkeys-lru" in log
    assert "Traceback" not in log


def test_a_worker_says_what_it_serves(bench: Any, workers: Any) -> None:
    workers.start("solo")
    assert "a add" in bench.store.run(views.served(bench.store.keys))


def test_a_worker_without_activities_does_not_take_messages_it_cannot_run(workers: Any) -> None:
    process = workers.start("solo", wait=False, CELERIAC_APP="")
    assert process.wait(30) != 0
    assert "no activities to run" in workers.log(process)
