"""The same work as plain Celery with its own Redis broker and backend; workers import this module.

Raw Celery gets what is best for it and allowed by at-least-once: JSON, late acknowledgement as ours, no
gossip, mingle or heartbeat (see machines.py), results ignored where nobody reads them.
"""

from __future__ import annotations

import os

from celery import Celery

from celeriac.celery_app.settings import Settings


def create(redis_url: str) -> Celery:
    """An app on this Redis (a URL as Celeriac spells it) with the tasks of all workloads."""
    url = Settings(redis_url=redis_url).celery_broker_url
    made = Celery("raw", broker=url, backend=url, set_as_current=False)
    made.conf.update(
        task_serializer="json", result_serializer="json", accept_content=["json"], task_acks_late=True,
        broker_connection_retry_on_startup=True,
    )  # fmt: skip
    made.task(name="raw.echo", shared=False)(echo)
    made.task(name="raw.add", shared=False)(add)
    made.task(name="raw.total", shared=False)(total)
    made.task(name="raw.noop", shared=False, ignore_result=True)(noop)
    return made


def echo(value: int) -> int:
    """The no-op: returns what it was given, so that a result can be checked."""
    return value


def add(total: int, value: int) -> int:
    """One link of a chain: adds its own number to what the link before returned."""
    return total + value


def total(values: list[int]) -> int:
    """The callback of a chord."""
    return sum(values)


def noop() -> None:
    """What is drained from a queue: takes nothing, gives nothing."""


if "BENCH_REDIS_URL" in os.environ:
    app = create(os.environ["BENCH_REDIS_URL"])
