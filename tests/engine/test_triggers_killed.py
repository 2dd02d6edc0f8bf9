"""Listeners in real processes, killed again and again: every message leads to exactly one instance.

Run as a program, this file is one such process; its arguments are the URL, hub, queue and kind of trigger.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store, turns
from celeriac.celery_app.triggers import MessageClient, QueueTriggers
from celeriac.orchestrations.registry import OrchestratorDefinition, Registry
from celeriac.orchestrations.triggers import QueueTrigger

REGISTRY = Registry()
REGISTRY.add(OrchestratorDefinition(name="flow", version="", function=lambda ctx: None))


def slow_starter(message: int, client: MessageClient) -> None:
    """Leaves time to be killed before, between and after what it does."""
    time.sleep(0.004)
    client.start("flow", message, tags={"part": "a"})
    time.sleep(0.004)
    client.start("flow", message, tags={"part": "b"})
    time.sleep(0.004)


def deadly_starter(message: str, client: MessageClient) -> None:
    """Ends the process for one message."""
    if message == "deadly":
        os._exit(1)
    client.start("flow", message)


def main(url: str, hub: str, queue: str, kind: str) -> None:
    settings = Settings(redis_url=url, hub=hub, lease=1.0, beat=0.2)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    trigger = {
        "default": QueueTrigger(queue, orchestrator="flow"),
        "starter": QueueTrigger(queue, starter=slow_starter, max_dequeue=50),
        "deadly": QueueTrigger(queue, starter=deadly_starter, max_dequeue=3),
    }[kind]
    with Client(settings=settings, registry=REGISTRY) as client:
        triggers = QueueTriggers(client, [trigger], first_delay=0.05, poll=0.5)
        triggers.start()
        print("up", flush=True)
        stop.wait()
        triggers.stop()


class Fleet:
    """Some listener processes."""

    def __init__(self, store: Store, queue: str, kind: str) -> None:
        self._command = [sys.executable, str(Path(__file__)), store.url, store.keys.hub, queue, kind]
        self.processes: list[subprocess.Popen[bytes]] = []

    def add(self) -> None:
        process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        self.processes.append(process)

    def kill(self, n: int, how: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(n)
        process.send_signal(how)
        process.communicate(timeout=15)

    def replace_dead(self) -> int:
        dead = [p for p in self.processes if p.poll() is not None]
        for process in dead:
            process.communicate()
            self.processes.remove(process)
            self.add()
        return len(dead)

    def end(self) -> None:
        while self.processes:
            self.kill(0, signal.SIGTERM)


@pytest.fixture
def client(store: Store) -> Iterator[Client]:
    with Client(settings=Settings(redis_url=store.url, hub=store.keys.hub), registry=REGISTRY) as made:
        yield made


@pytest.fixture
def queue(store: Store) -> Iterator[str]:
    name = f"orders-{store.keys.hub}"
    yield name
    store.client.delete(name, name + "-poison")


@pytest.fixture
def fleet_of(store: Store, queue: str) -> Iterator[Callable[[str], Fleet]]:
    fleets: list[Fleet] = []

    def make(kind: str) -> Fleet:
        fleets.append(Fleet(store, queue, kind))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.end()
    until_swept(store)


def sweep(store: Store) -> None:
    """What every orchestrator does once in a while."""
    store.run(turns.sweep(store.keys, 500))


def until_swept(store: Store, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while store.client.zcard(store.keys.beats):
        assert time.monotonic() < deadline
        sweep(store)
        time.sleep(0.05)


def until(store: Store, condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        sweep(store)
        time.sleep(0.05)


def started(client: Client) -> collections.Counter[tuple[Any, str]]:
    """How many instances there are for each message and part."""
    return collections.Counter((s.input, s.tags.get("part", "")) for s in client.iterate())


@pytest.mark.parametrize("kind", ["default", "starter"])
def test_each_message_is_started_once_however_often_listeners_are_killed(
    client: Client, store: Store, queue: str, fleet_of: Callable[[str], Fleet], kind: str
) -> None:
    chance = random.Random(7)
    fleet = fleet_of(kind)
    for _ in range(3):
        fleet.add()
    messages = iter(range(300))
    sent = 0
    kills = 0
    while sent < 300:
        for n in [*zip(range(chance.randint(10, 40)), messages, strict=False)]:
            store.client.lpush(queue, str(n[1]))
            sent = n[1] + 1
        time.sleep(chance.uniform(0.0, 0.15))
        if kills < 9:
            fleet.kill(chance.randrange(3), chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
            kills += 1
            fleet.add()
        sweep(store)
    parts = ["a", "b"] if kind == "starter" else [""]
    wanted = {(n, part) for n in range(300) for part in parts}
    until(store, lambda: not held(store) and started(client).keys() >= wanted, 60)
    assert kills >= 6
    assert started(client) == collections.Counter(wanted)
    assert store.client.exists(queue, queue + "-poison") == 0


def held(store: Store) -> bool:
    """Whether any message waits, is in a listener's record, or is to be taken again."""
    hub = store.keys.hub
    patterns = (f"{hub}:trig:*", f"{hub}:again:*", f"orders-{hub}")
    return any(next(store.client.scan_iter(match=p, count=1000), None) for p in patterns)


def test_a_dead_listeners_messages_go_to_another_within_the_lease(
    client: Client, store: Store, queue: str, fleet_of: Callable[[str], Fleet]
) -> None:
    fleet = fleet_of("starter")
    fleet.add()
    for n in range(20):
        client.push(queue, n)
    until(store, lambda: len(client.list()) > 4, 10)
    fleet.kill(0)
    killed = time.monotonic()
    fleet.add()
    until(store, lambda: not held(store) and len(started(client)) == 40, 15)
    assert time.monotonic() - killed < 8  # the lease of these listeners is 1 s
    assert set(started(client).values()) == {1}


@pytest.mark.parametrize("kind", ["default", "starter"])
def test_a_listener_that_stood_still_goes_on_under_another_name(
    client: Client, store: Store, queue: str, fleet_of: Callable[[str], Fleet], kind: str
) -> None:
    fleet = fleet_of(kind)
    fleet.add()
    fleet.add()
    names = {process.incarnation for process in client.workers()}
    sleeper = fleet.processes[0]
    for n in range(60):
        client.push(queue, n)
        if n == 30:
            sleeper.send_signal(signal.SIGSTOP)
    parts = 2 if kind == "starter" else 1
    until(store, lambda: not held(store) and len(started(client)) == 60 * parts, 40)
    # It may have held nothing: then all is done long before its lease lapses.
    until(store, lambda: all(p.info["pid"] != sleeper.pid for p in client.workers()), 40)
    sleeper.send_signal(signal.SIGCONT)
    new = lambda: [p for p in client.workers() if p.incarnation not in names]  # noqa: E731
    until(store, lambda: any(p.info["pid"] == sleeper.pid for p in new()), 30)
    for n in range(60, 90):
        client.push(queue, n)
    until(store, lambda: not held(store) and len(started(client)) == 90 * parts, 40)
    assert set(started(client).values()) == {1}


def test_a_message_that_kills_its_listener_is_given_up(
    client: Client, store: Store, queue: str, fleet_of: Callable[[str], Fleet]
) -> None:
    fleet = fleet_of("deadly")
    fleet.add()
    for message in ("first", "deadly", "last"):
        client.push(queue, message)
    deaths = 0

    def given_up() -> bool:
        nonlocal deaths
        deaths += fleet.replace_dead()
        return len(client.poison(queue)) == 1 and len(client.list()) == 2

    until(store, given_up, 40)
    assert deaths == 3
    poison = client.poison(queue)[0]
    assert poison.message == "deadly"
    assert "died in 3 tries" in poison.reason


if __name__ == "__main__":
    main(*sys.argv[1:])
