"""Redis fails over to a replica, one that is behind too: processes come over, old and new never mix."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trouble_site import Load, RedisServer

from celeriac.orchestrations.errors import InstanceNotFoundError


@pytest.fixture
def replica(server: Any, tmp_path: Path) -> Iterator[RedisServer]:
    """A second Redis that follows the first."""
    made = RedisServer(tmp_path / "replica")
    made.start()
    made.client.replicaof("127.0.0.1", server.port)
    end = time.monotonic() + 30
    while made.client.info("replication")["master_link_status"] != "up":
        assert time.monotonic() < end
        time.sleep(0.05)
    yield made
    made.kill()


def fail_over(site: Any, server: Any, replica: Any) -> None:
    """What Sentinel does: the master is gone, the replica is promoted, the address leads there."""
    server.kill()
    replica.client.replicaof("NO", "ONE")
    site.proxy.upstream = replica.port
    site.proxy.cut()


def test_fail_over_to_a_replica_that_is_up_to_date(site: Any, server: Any, replica: Any) -> None:
    site.up("threads", "prefork", "solo")
    load = Load(site.client, "f")
    load.start()
    waiting = site.client.start("long_step", 3.0)
    site.until(lambda: len(load.acknowledged) > 30)
    site.client.push(site.queue, 1)
    ids = load.stop()
    assert server.client.wait(1, 5000) == 1
    fail_over(site, server, replica)
    site.completed(ids)
    site.completed([site.client.start("steps", 3, instance_id="after")])
    assert site.wait(waiting).status == "Completed"
    site.until(lambda: len(list(site.client.list(name="ordered", status="Completed"))) == 1)
    assert "failed over" in site.log("orchestrator")
    site.all_are_there()


def test_fail_over_to_a_replica_that_is_behind(site: Any, server: Any, replica: Any) -> None:
    """What only the old master knew is lost as a whole; what both knew goes on from where the replica is."""
    site.up("threads", "solo")
    collector = site.client.start("collects")
    slow = [site.client.start("slow_steps", 6) for _ in range(4)]
    site.until(lambda: site.counts()[f"{slow[0]}.1"])
    assert server.client.wait(1, 5000) == 1
    replica.client.replicaof("127.0.0.1", 1)  # follows nobody any more, and still is a replica
    site.client.raise_event(collector, "number", 7)
    site.until(lambda: len(site.client.history(collector)) == 2)
    site.client.start("steps", 3, instance_id="lost")
    site.until(lambda: site.counts()[f"{slow[0]}.3"])
    fail_over(site, server, replica)
    for instance in slow:
        assert site.wait(instance).output == [f"{instance}.{k}" for k in range(6)]
    with pytest.raises(InstanceNotFoundError):
        site.client.get("lost")
    site.completed([site.client.start("steps", 3, instance_id="lost")])  # its name is free
    site.client.raise_event(collector, "number", 8)
    site.client.raise_event(collector, "number", -1)
    assert site.wait(collector).output == [8]
    assert site.log("orchestrator").count("went back in time") <= 2
    site.all_are_there()


def test_a_master_that_becomes_a_replica_under_its_clients(site: Any, server: Any, replica: Any) -> None:
    """Blocked calls are answered UNBLOCKED and writes READONLY, on connections that stay."""
    site.up("threads", "prefork", "solo")
    load = Load(site.client, "r")
    load.start()
    site.until(lambda: len(load.acknowledged) > 20)
    server.client.replicaof("127.0.0.1", replica.port)  # which is a replica too: nobody takes writes
    time.sleep(3)
    site.all_are_there()
    server.client.replicaof("NO", "ONE")
    more = len(load.acknowledged) + 10
    site.until(lambda: len(load.acknowledged) > more)
    site.completed(load.stop())
    site.all_are_there()
