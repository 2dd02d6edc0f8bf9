"""Redis loses the end of its file while everybody lives on: the work goes on from what is left, right."""

from __future__ import annotations

import os
from typing import Any

import pytest

from celeriac.orchestrations.errors import InstanceNotFoundError

STEPS = 4
LONG = "TROUBLE_SECONDS" in os.environ  # make redis-trouble


def commands_in(data: bytes) -> list[int]:
    """Where each command of an append-only file begins."""
    starts, at = [], 0
    while at < len(data):
        starts.append(at)
        end = data.index(b"\r\n", at)
        count, at = int(data[at + 1 : end]), end + 2
        for _ in range(count):
            end = data.index(b"\r\n", at)
            at = end + 2 + int(data[at + 1 : end]) + 2
    return starts


@pytest.mark.parametrize("lost", [0.02, 0.05, 0.1, 0.2, 0.3, 0.6, 0.9] if LONG else [0.1])
def test_a_lost_tail_under_living_processes(site: Any, server: Any, lost: float) -> None:
    """`lost` is the share of what was written since the start that is cut off, in the midst of a command."""
    site.up("threads", "solo")
    begun = server.aof.stat().st_size
    ids = [f"i{n}" for n in range(8)]
    for instance in ids[:6]:
        site.client.start("slow_steps", STEPS, instance_id=instance)
    collector = site.client.start("collects", instance_id="collector")
    for number in range(20):
        site.client.raise_event(collector, "number", number)
    site.until(lambda: site.counts()["i0.1"])
    for instance in ids[6:]:
        site.client.start("slow_steps", STEPS, instance_id=instance)
    site.until(lambda: site.counts()["i1.2"])
    server.kill()
    data = server.aof.read_bytes()
    keep = len(data) - int((len(data) - begun) * lost)
    within = max(at for at in commands_in(data) if at <= keep)
    server.aof.write_bytes(data[: max(keep, within + 3)])
    server.start()
    for instance in ids:
        try:
            site.client.get(instance)
        except InstanceNotFoundError:
            assert site.client.start("slow_steps", STEPS, instance_id=instance) == instance
        assert site.wait(instance).output == [f"{instance}.{k}" for k in range(STEPS)]
    try:
        site.client.get(collector)
    except InstanceNotFoundError:
        site.client.start("collects", instance_id="collector")
    site.client.raise_event(collector, "number", 99)
    site.client.raise_event(collector, "number", -1)
    got = site.wait(collector).output
    assert got == [*range(len(got) - 1), 99]  # a prefix of what was said, in order, and each once
    # At least once, and no more often than before and after the loss.
    counts = site.counts()
    assert all(1 <= counts[f"{i}.{k}"] <= 2 for i in ids for k in range(STEPS)), counts
    site.all_are_there()
