"""Nothing is lost and nothing stranded while processes die, stop and lose their connections.

`make chaos-transport KILLS=200 SEED=1` is the long form; `make test` attacks each pool 12 times.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attack import COUNTING, Attack

from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import flights

KILLS = int(os.environ.get("KILLS", "12"))
SEED = int(os.environ.get("SEED", "1"))


@pytest.fixture(scope="module")
def bench_settings(redis_server: Any) -> Settings:
    """A short lease, so that pauses beyond it fit into a test."""
    name = f"a{os.urandom(3).hex()}"
    settings = Settings(redis_url=redis_server.url, hub=name, queue=f"q{name}", apps=("acts",))
    return replace(settings, lease=3.0, beat=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the counting tasks."""
    path = tmp_path_factory.mktemp("counting")
    (path / "acts.py").write_text(COUNTING)
    return path


@pytest.mark.timeout(120 + 8 * KILLS)
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_counting_under_attack(bench: Any, workers: Any, pool: str, tmp_path: Path) -> None:
    """Each is done, each activity has one outcome, and only deaths repeat work."""
    attack = Attack(bench, workers, pool, tmp_path / "runs", SEED)
    attack.run(KILLS)
    attack.settle(90)
    verdict = attack.verdict()
    print(f"{pool}, seed {SEED}: {verdict}")
    assert not verdict.lost, verdict.lost
    assert not verdict.unrecorded, verdict.unrecorded
    assert not verdict.recorded_twice, verdict.recorded_twice
    assert not verdict.wrongly_repeated, verdict.wrongly_repeated

    def forgotten() -> bool:
        bench.store.run(flights.sweep_flights(bench.store.keys))
        return bench.store.client.zcard(bench.store.keys.beats) == 1  # the bench's own

    bench.wait_for(forgotten, 20, "the last incarnations to be forgotten")
