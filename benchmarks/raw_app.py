"""The same work as a plain Celery application with Celery's own Redis broker and backend."""

from __future__ import annotations

import os

from celery import Celery

url = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/1")
app = Celery("raw", broker=url, backend=url)
app.conf.update(
    task_serializer="json", result_serializer="json", accept_content=["json"], task_acks_late=True
)


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
