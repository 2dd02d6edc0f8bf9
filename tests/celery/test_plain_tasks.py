"""A user's own Celery tasks on their own queues, in every pool."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group

from celeriac.celery_app.app import create_app
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store

TASKS = """
import os, time
from celeriac.celery_app import app

@app.task(name="own.add", ignore_result=False)
def add(a, b):
    return a + b

@app.task(name="own.total", ignore_result=False)
def total(numbers):
    return sum(numbers)

@app.task(name="own.again", bind=True, ignore_result=False, max_retries=5)
def again(self, path, times):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < times:
        raise self.retry(countdown=0.2)
    return self.request.retries

@app.task(name="own.line", ignore_result=True)
def line(path, text):
    with open(path, "a") as file:
        file.write(text + "\\n")
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own")
    (path / "own.py").write_text(TASKS)
    return path


@pytest.fixture(scope="module")
def bench_settings(redis_server: Any) -> Settings:
    name = f"n{os.urandom(3).hex()}"
    return Settings(
        redis_url=redis_server.url, hub=name, queue=f"q{name}", apps=("own",), lease=5.0, beat=1.0
    )


class Own:
    """The tasks of one pool's worker."""

    def __init__(self, app: Any, queue: str, store: Store) -> None:
        self.app, self.queue, self.store = app, queue, store

    def task(self, name: str, *args: Any, queue: str = "", **options: Any) -> Any:
        where = f"{self.queue}.{queue}" if queue else self.queue
        return self.app.signature(f"own.{name}", args=args, queue=where, **options)


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def own(workers: Any, bench_settings: Settings, request: pytest.FixtureRequest) -> Iterator[Own]:
    queue = f"{bench_settings.queue}.{request.param}"
    served = f"{queue},{queue}.deep,{queue}.other"
    workers.start(request.param, "-c", "1", "-Q", served, settings=bench_settings)
    app = create_app(bench_settings, load=False)
    with Store.connect(bench_settings) as store:
        yield Own(app, queue, store)
    app.close()


def test_results_retries_and_countdowns(own: Own, tmp_path: Path) -> None:
    later = own.task("add", 3, 4).apply_async(countdown=0.6)
    again = own.task("again", str(tmp_path / "runs"), 3).apply_async()
    assert own.task("add", 1, 2).apply_async().get(timeout=20) == 3
    assert again.get(timeout=20) == 2
    assert later.get(timeout=20) == 7


def test_canvas(own: Own) -> None:
    numbers = [own.task("add", n, n) for n in range(5)]
    joined: Any = chord(numbers)(own.task("total"))
    assert joined.get(timeout=20) == 20
    together: Any = group(numbers).apply_async()
    assert together.get(timeout=20) == [0, 2, 4, 6, 8]
    links = chain(own.task("add", 1, 2), own.task("add", 10), own.task("add", 100))
    last: Any = links.apply_async()
    assert last.get(timeout=20) == 113


def test_a_deep_queue_starves_no_other_and_priorities_are_strict(own: Own, tmp_path: Path) -> None:
    """Queues are served in turn; of one priority all come before the next."""
    path = tmp_path / "order"
    for n in range(150):
        own.task("line", str(path), f"deep {n}", queue="deep").apply_async()
    for n in range(10):
        own.task("line", str(path), f"other {n}", queue="other").apply_async()
    for n in range(5):
        own.task("line", str(path), f"late {n}", queue="deep").apply_async(priority=9)

    def lines() -> list[str]:
        return path.read_text().split("\n")[:-1] if path.exists() else []

    deadline = time.monotonic() + 40
    while len(lines()) < 165:
        assert time.monotonic() < deadline, len(lines())
        time.sleep(0.05)
    order = [text.split(" ")[0] for text in lines()]
    last_other = len(order) - 1 - order[::-1].index("other")
    assert "deep" in order[last_other:], "the other queue did not wait for the deep one"
    assert order[-5:] == ["late"] * 5
