"""`appendfsync everysec`, what most people run: Redis is killed, or its machine loses power, under load.

A killed Redis loses what it had not yet written to its file: normally nothing, but a write waits while an
fsync is slow, for two seconds at most. A power cut loses what was written since the last fsync. Either way
it is the end of the file that is gone, and everything goes on from what is left, by itself.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from trouble_site import Load

from celeriac.orchestrations.errors import InstanceNotFoundError

POSTPONED = 3.0  # seconds: Redis lets a write wait for 2 s behind an fsync, and looks every tenth of one
LOST = 1.0  # seconds of writes that the power cut takes


class Sizes(threading.Thread):
    """How long the append-only file was, and when."""

    def __init__(self, server: Any) -> None:
        super().__init__(daemon=True)
        self._server, self.seen = server, [(time.monotonic(), server.aof.stat().st_size)]
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.02):
            self.seen.append((time.monotonic(), self._server.aof.stat().st_size))

    def before(self, moment: float) -> int:
        """The size at that time, or a little earlier."""
        return max(size for at, size in self.seen if at <= moment)


def is_there(site: Any, instance: str) -> bool:
    try:
        site.client.get(instance)
    except InstanceNotFoundError:
        return False
    return True


def check_tail(site: Any, load: Load, since: float, cut: float) -> list[str]:
    """What was acknowledged between `since` and `cut` is there; what came later is there up to some point,
    and missing from there on. Returns what is missing.
    """
    some = [i for i in load.acknowledged if load.moments[i] >= since]
    there = [is_there(site, instance) for instance in some]
    gone = [i for i, found in zip(some, there, strict=True) if not found]
    assert there == sorted(there, reverse=True), f"{gone} are missing, and later ones are not"
    assert [i for i in gone if load.moments[i] < cut] == []
    return gone


@pytest.mark.parametrize("server", ["everysec"], indirect=True)
def test_kill_9_loses_an_end_of_the_file_at_most(site: Any, server: Any) -> None:
    site.up("threads", "prefork")
    lost: list[str] = []
    ids: list[str] = []
    for round_ in range(3):
        since = time.monotonic()
        load = Load(site.client, f"k{round_}.")
        load.start()
        site.until(lambda load=load: len(load.acknowledged) > 25)
        server.kill()
        killed = time.monotonic()
        server.start()  # until here it acknowledged nothing more
        # What it was told while Redis was down was told after the loss, and is there.
        acknowledged = load.stop()
        before = [i for i in acknowledged if load.moments[i] <= killed]
        after = [i for i in acknowledged if load.moments[i] > killed]
        assert all(is_there(site, i) for i in after)
        load.acknowledged = before
        gone = check_tail(site, load, since, killed - POSTPONED)
        lost += gone
        ids += [i for i in acknowledged if i not in gone]
    site.completed(ids)
    for instance in lost:
        assert site.client.start("steps", 3, instance_id=instance) == instance
    site.completed(lost)
    print(f"{len(lost)} of {len(ids) + len(lost)} acknowledged starts were lost in 3 kills")
    check_effects(site)


@pytest.mark.parametrize("server", ["everysec"], indirect=True)
def test_a_power_cut_loses_the_last_second_and_nothing_else(site: Any, server: Any) -> None:
    """The file is cut at what it was a second before, in the midst of a command."""
    site.up("threads", "prefork")
    collector = site.client.start("collects")
    sizes, load = Sizes(server), Load(site.client, "p")
    began = time.monotonic()
    sizes.start()
    load.start()
    said: list[tuple[float, int]] = []
    while time.monotonic() < began + 2 or len(load.acknowledged) < 25:
        site.client.raise_event(collector, "number", len(said))
        said.append((time.monotonic(), len(said)))
    sizes.stopping.set()
    sizes.join()
    server.kill()
    cut = time.monotonic() - LOST
    keep = sizes.before(cut)
    data = server.aof.read_bytes()
    server.aof.write_bytes(data[: keep - 3])
    before = list(load.acknowledged)
    server.start()
    load.stop()
    assert keep < len(data)
    after = [i for i in load.acknowledged if i not in before]
    load.acknowledged = before
    # A moment of slack: an answer may come a little after the write, and a size is seen a little later.
    gone = check_tail(site, load, began, cut - 0.5)
    assert gone, "nothing was lost: the cut came too late"
    site.completed([i for i in (*before, *after) if i not in gone])
    for instance in gone:
        assert site.client.start("steps", 3, instance_id=instance) == instance
    site.completed(gone)
    assert is_there(site, collector)
    site.client.raise_event(collector, "number", 1_000_000)
    site.client.raise_event(collector, "number", -1)
    got = site.wait(collector).output
    assert got == [*range(len(got) - 1), 1_000_000]  # the beginning of what was said, in order, each once
    assert len(got) - 1 >= sum(at < cut - 0.5 for at, _ in said)
    print(
        f"{len(gone)} of {len(before)} starts and {len(said) - len(got) + 1} of {len(said)} events were lost"
    )
    for kind in ("orchestrator", "worker"):
        assert site.log(kind).count("Traceback") == 0, site.log(kind)
    check_effects(site)


def check_effects(site: Any) -> None:
    """Nothing ran more than once before a loss and once after it."""
    assert {key: n for key, n in site.counts().items() if n > 2} == {}
    site.until(lambda: not site.store.client.zcard(site.store.keys.ready))
    site.all_are_there()
