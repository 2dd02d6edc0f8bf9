"""A purge of instances that are each other's children."""

from __future__ import annotations

from typing import Any

from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import instances
from celeriac.celery_app.store.records import ChildStart, new_execution, open_text
from celeriac.orchestrations.history import EventRaised, ExecutionStarted


def child(instance: str, parent: str, close: str) -> ChildStart:
    started = ExecutionStarted(execution=new_execution(), instance=instance, name="flow", parent=parent)
    return ChildStart.of(started, seq=0, close=close)


def test_a_purge_ends_where_two_instances_are_each_others_children(desk: Any) -> None:
    """`a` starts `b`, ends and leaves it running; then `b` starts a child under the id `a`, which is free."""
    desk.start("a")
    desk.step(children=[child("b", "a", "abandon")])
    held = desk.claim_one()
    go = open_text(EventRaised(name="go"))
    desk.store.run(instances.raise_event(desk.keys, "a", go, now=desk.now))
    desk.end()
    desk.commit(desk.turn(held, children=[child("a", "b", "terminate")]))
    desk.end()
    desk.store.run(instances.raise_event(desk.keys, "b", go, now=desk.now))
    desk.end()
    with Client(settings=Settings(redis_url=desk.store.url, hub=desk.keys.hub)) as client:
        assert client.purge("b") == 2
