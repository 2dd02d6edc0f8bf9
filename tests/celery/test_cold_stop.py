"""A worker that is told to end at once never reports an activity that it interrupts as failed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

SOFT = "from celeriac.celery_app import app\napp.conf.worker_soft_shutdown_timeout = 0.2\nimport acts\n"
# name: pool, how often it is told, seconds that its activity takes, and how often that may run in the end
STOPS = {
    "solo": ("solo", 1, 1.5, {"x"}),
    "threads": ("threads", 1, 1.5, {"x"}),
    "prefork": ("prefork", 1, 1.5, {"x", "xx"}),
    "insisting": ("solo", 3, 4, {"xx"}),
}


def test_a_cold_shutdown_lets_end_or_gives_back(
    bench: Any, workers: Any, folder: Path, tmp_path: Path
) -> None:
    (folder / "soft.py").write_text(SOFT)
    queues = {name: f"{bench.settings.queue}.{name}" for name in STOPS}
    started = {
        name: workers.start(pool, "-Q", queues[name], wait=False, CELERIAC_APP="soft")
        for name, (pool, _, _, _) in STOPS.items()
    }
    for name, worker in started.items():
        workers.wait_ready(worker)
        call = json.dumps([[STOPS[name][2], str(tmp_path / name)], {}])
        bench.call(name, "sleep", call, queue=queues[name])
    bench.wait_for(lambda: all((tmp_path / name).exists() for name in STOPS))
    for name, worker in started.items():
        for word in ("Hitting", "gracefully", "")[: STOPS[name][1]]:
            worker.send_signal(signal.SIGQUIT)
            bench.wait_for(lambda worker=worker, word=word: word in workers.log(worker))
    for worker in started.values():
        worker.wait(30)
    workers.start("threads", "-Q", ",".join(queues.values()))
    for name, (_, _, _, runs) in STOPS.items():
        assert bench.outcome(name).result == '"slept"', workers.log(started[name])
        assert (tmp_path / name).read_text() in runs, name
