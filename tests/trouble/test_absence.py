"""Redis is killed, away or silent under load: every process comes back by itself and nothing is lost.

`TROUBLE_SECONDS` makes the absence as long as one likes (`make redis-trouble`).
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

from trouble_site import Condemned, Load

from celeriac.orchestrations.errors import RedisUnavailableError

ABSENCE = float(os.environ.get("TROUBLE_SECONDS", "6"))


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(site: Any, server: Any) -> None:
    site.up("threads", "prefork")
    collector = site.client.start("collects")
    load = Load(site.client, "k")
    load.start()
    said: list[int] = []
    for round_ in range(3):
        enough = len(load.acknowledged) + 10
        number = round_ * 1000
        while len(load.acknowledged) < enough:
            try:
                site.client.raise_event(collector, "number", number)
                said.append(number)
            except RedisUnavailableError:
                pass  # told that it may not have arrived
            number += 1
        server.kill()
        server.start()
    ids = load.stop()
    site.completed(ids)
    site.client.raise_event(collector, "number", -1)
    got = site.wait(collector).output
    assert len(got) == len(set(got))
    assert set(said) <= set(got)
    counts = site.counts()
    assert {f"{i}.{k}" for i in ids for k in range(3)} <= set(counts)
    site.all_are_there()


def test_absence_under_load(site: Any, server: Any) -> None:
    """Longer than a lease (4 s), in which nobody can beat: nobody is given up, and no activity runs again."""
    site.up("threads", "prefork", "solo")
    load = Load(site.client, "a")
    load.start()
    for n in range(10):
        site.client.push(site.queue, n)
    # Some activities outlast the absence, some end in it, and of some only the outcome is to be written.
    seconds = [1.0, ABSENCE / 2, ABSENCE + 6]
    long_ones = [site.client.start("long_step", s) for s in seconds]
    site.until(lambda: len(load.acknowledged) > 20 and all(site.counts()[f"{i}.0"] for i in long_ones))
    condemned = Condemned(server.client, site.store.keys.beats)
    condemned.start()
    site.proxy.shut()
    time.sleep(ABSENCE)
    knocks = list(site.proxy.attempts)
    site.proxy.open()
    back = time.monotonic()
    more = len(load.acknowledged) + 10
    site.until(lambda: len(load.acknowledged) > more)
    ids = load.stop()
    site.completed(ids)
    for instance in long_ones:
        assert site.wait(instance).output == f"{instance}.0"
    site.until(lambda: len(list(site.client.list(name="ordered", status="Completed"))) == 10)
    print(f"all in order {time.monotonic() - back:.1f} s after {ABSENCE:g} s of absence")
    # Nobody died: what a process ran, it reported, and nobody ran it again.
    assert {key: n for key, n in site.counts().items() if n > 1 and not key.startswith("order")} == {}
    # (An orchestrator takes a new name by itself after a loss, and leaves the old one empty.)
    assert {name for name in condemned.stop() if name[0] != "o"} == set()
    assert "taken for dead" not in site.logs()
    assert "lease lapsed" not in site.logs()
    site.all_are_there()
    # They knock again and again, and not all at the same moments.
    assert len(knocks) > 3 * ABSENCE
    moments = sorted(knocks)
    together = sum(b - a < 0.002 for a, b in itertools.pairwise(moments))
    assert together < len(moments) / 2
    for kind in ("orchestrator", "worker"):
        lines = site.log(kind).splitlines()
        assert sum("Redis is away" in line for line in lines) <= 4 * (1 + ABSENCE / 30), site.log(kind)


def test_half_open_connections(site: Any) -> None:
    site.up("threads", "solo")
    first = site.client.start("slow_steps", 3)
    site.until(lambda: site.counts()[f"{first}.0"])
    site.proxy.go_silent()
    began = time.monotonic()
    with site.store.__class__.connect(site.settings) as store:  # a client that comes now is not concerned
        site.until(lambda: store.client.hget(site.store.keys.inst(first), "status") == b"Completed", 60)
    print(f"went on {time.monotonic() - began:.1f} s after the connections had gone silent")
    assert max(site.counts().values()) <= 2
    site.all_are_there()
