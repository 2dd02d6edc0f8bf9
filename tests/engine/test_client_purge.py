"""Purging by conditions where what meets them lies far behind what does not, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store, views
from celeriac.orchestrations.registry import OrchestratorDefinition, Registry

REGISTRY = Registry()
REGISTRY.add(OrchestratorDefinition(name="flow", version="", function=lambda ctx: None))


@pytest.fixture
def client(store: Store) -> Iterator[Client]:
    settings = Settings(redis_url=store.url, hub=store.keys.hub)
    with Client(settings=settings, registry=REGISTRY) as made:
        yield made


@pytest.mark.parametrize("condition", [{"name": "flow"}, {"prefix": "f-"}, {"tag": "of=us"}])
def test_a_page_without_a_match_does_not_end_a_purge(
    client: Client, monkeypatch: pytest.MonkeyPatch, condition: dict[str, Any]
) -> None:
    monkeypatch.setattr(views, "SCAN", 5)  # entries looked at in a page: many pages of few instances
    # Both orders, by age and by id: twelve that run lie before those that ended, and among them.
    ended = {"f-12", "f-13", "f-20"}
    for n in reversed(range(25)):
        client.start("flow", instance_id=f"f-{n:02}", tags={"of": "us"})
    for one in ended:
        client.terminate(one)
    assert client.purge(**condition) == len(ended)
    left = {state.id for state in client.iterate()}
    assert left == {f"f-{n:02}" for n in range(25)} - ended
    assert client.purge(**condition) == 0
