"""The same work as a plain Celery application with Celery's own Redis broker and backend."""

from __future__ import annotations

import os

from celery import Celery

from celeriac.celery_app.settings import Settings

app = Celery("raw")
app.conf.update(
    task_serializer="json", result_serializer="json", accept_content=["json"], task_acks_late=True
)


def use(redis_url: str) -> None:
    """Broker and backend, from a Redis URL as Celeriac spells it."""
    url = Settings(redis_url=redis_url).celery_broker_url
    app.conf.update(broker_url=url, result_backend=url)


if "BENCH_REDIS_URL" in os.environ:
    use(os.environ["BENCH_REDIS_URL"])


@app.task(name="raw.echo")
def echo(value: int) -> int:
    return value


@app.task(name="raw.add")
def add(total: int, value: int) -> int:
    """One link of a chain: adds its own number to what the link before returned."""
    return total + value


@app.task(name="raw.total")
def total(values: list[int]) -> int:
    return sum(values)
