"""Redis applies a call and its answer never arrives: applied once, whoever sent it.

What each script makes of being sent twice is in tests/store/test_every_script.py; here the real processes.
"""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.orchestrations.errors import RedisUnavailableError

OF_CLIENTS = ("start", "raise_event", "control", "get")
OF_PROCESSES = (
    "claim", "commit", "fire_timers", "sweep", "hand_back", "take", "complete", "ack", "adopt", "beat",
    "sweep_flights", "promote", "trigger_take", "trigger_start",
)  # fmt: skip


def test_of_a_client(site: Any) -> None:
    site.up("threads", orchestrators=1)
    collector = site.client.start("collects", instance_id="collector")
    for name in OF_CLIENTS:
        site.proxy.lose(name)
    site.client.start("steps", 3, instance_id="one")  # told once, started once
    site.client.raise_event(collector, "number", 1, dedup_key="first")
    site.client.suspend(collector)
    site.client.resume(collector)
    site.client.get(collector)
    assert [name for name in OF_CLIENTS if not site.proxy.times_lost(name)] == []
    site.proxy.lose("raise_event")
    with pytest.raises(RedisUnavailableError):
        site.client.raise_event(collector, "number", 2)  # the caller must know that this may have arrived
    site.client.raise_event(collector, "number", -1)
    assert site.wait(collector).output == [1, 2]
    site.completed(["one"])


def test_of_orchestrators_workers_and_listeners(site: Any) -> None:
    """Each script in turn loses an answer under load; every activity runs once all the same."""
    site.up("threads", "solo")
    ids: list[str] = []
    for n, name in enumerate(OF_PROCESSES * 2):
        site.proxy.lose(name)
        some = [f"{name}{n}.{k}" for k in range(3)]
        for instance in some:
            site.client.start("steps", 3, instance_id=instance)
        site.client.push(site.queue, n)
        ids += some
    site.completed(ids)
    site.until(
        lambda: len(list(site.client.list(name="ordered", status="Completed"))) == 2 * len(OF_PROCESSES)
    )
    often = {"claim", "commit", "take", "complete", "beat", "sweep", "trigger_take"}
    assert [name for name in sorted(often) if not site.proxy.times_lost(name)] == []
    assert {key: n for key, n in site.counts().items() if n > 1} == {}
    site.all_are_there()
