"""Redis comes back with an older state while the orchestrators live on: old and new are never mixed."""

from __future__ import annotations

import time
from typing import Any

from celeriac.celery_app.orchestrator.worker import OrchestratorWorker
from celeriac.celery_app.store import Store, instances
from celeriac.celery_app.store.records import open_text
from celeriac.orchestrations.errors import OrchestrationCancelledError
from celeriac.orchestrations.history import EventRaised

State = dict[bytes, bytes]


def photograph(store: Store) -> State:
    """Every key of the hub, as Redis would write it to disk."""
    client = store.client
    return {key: client.dump(key) for key in client.scan_iter(match=f"{store.keys.hub}:*", count=1000)}


def rewind(store: Store, state: State) -> None:
    """Everything goes back together, as after a crash of Redis that lost the tail of its file."""
    with store.client.pipeline(transaction=True) as pipe:
        for key in store.client.scan_iter(match=f"{store.keys.hub}:*", count=1000):
            pipe.delete(key)
        for key, value in state.items():
            pipe.restore(key, 0, value)
        pipe.execute()


def by_hand(lab: Any) -> OrchestratorWorker:
    """An orchestrator whose rounds the test makes, so that it decides who takes which turn."""
    worker = OrchestratorWorker(lab.new_store(), lab.emitter, lab.registry, lab.settings)
    worker._join()
    return worker


def rounds(worker: OrchestratorWorker, n: int = 2) -> None:
    """One takes turns, the next sends them."""
    worker._chores.beaten()
    for _ in range(n):
        worker._idle = False
        worker._tick()


def test_a_live_execution_of_a_lost_past_is_not_continued(lab: Any) -> None:
    """Both pasts have the same length and the same last event: only what lies before it differs.

    The replica that takes over has a clock that is behind, so its events are no later than the last one.
    """

    @lab.orchestrator
    async def listens(ctx: Any) -> list[str]:
        heard: list[str] = []
        while len(heard) < 3:
            try:
                heard.append(await ctx.wait_for_external_event("word", str))
            except OrchestrationCancelledError as error:
                heard.append(str(error))
        return heard

    first, second = by_hand(lab), by_hand(lab)
    instance = lab.client.start(listens)
    rounds(first)
    lab.client.suspend(instance)
    rounds(first)
    late = open_text(EventRaised(name="word", input='"late"'))
    ahead = int(time.time() * 1000) + 60_000
    lab.store.run(instances.raise_event(lab.store.keys, instance, late, now=ahead))
    before = photograph(lab.store)

    lab.client.cancel(instance, "one")
    rounds(first)
    lost = lab.history(instance)
    assert first._turner.cache.hits > 0

    rewind(lab.store, before)
    lab.client.cancel(instance, "two")
    rounds(second)
    assert len(lab.history(instance)) == len(lost)
    assert lab.history(instance)[-1] == lost[-1]

    lab.client.raise_event(instance, "word", "end")
    rounds(first)
    output = lab.client.wait(instance, timeout=10).output
    assert output[1:] == ["late", "end"]
    assert "two" in output[0], output
    for worker in (first, second):
        worker._stopping = True
        worker._leave()


def test_a_claim_that_came_back_with_an_older_state_is_handed_back(lab: Any) -> None:
    """Redis remembers a claim, its holder has long committed: nobody but the holder can let it go."""

    @lab.orchestrator
    async def listens(ctx: Any) -> str:
        return await ctx.wait_for_external_event("word", str)

    worker = by_hand(lab)
    instance = lab.client.start(listens)
    rounds(worker, 1)  # claimed, the turn taken and not yet sent
    before = photograph(lab.store)
    rounds(worker)
    assert lab.status(instance) == "Running"
    rewind(lab.store, before)
    assert lab.store.client.hget(lab.store.keys.inst(instance), "stage") == b"2"
    worker._chores.renewed()
    rounds(worker, 3)
    assert lab.status(instance) == "Running"
    lab.client.raise_event(instance, "word", "end")
    rounds(worker)
    assert lab.client.wait(instance, timeout=10).output == "end"
    worker._stopping = True
    worker._leave()
