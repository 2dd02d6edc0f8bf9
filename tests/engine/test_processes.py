"""Real processes: `celeriac orchestrator` and Celery workers, and what happens when they are killed."""

from __future__ import annotations

import os
import signal
import time

import pytest
from sites import Site

from celeriac.celery_app.orchestrator.deadline import EXIT_STUCK


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_mixture_on_celery_workers(site: Site, pool: str) -> None:
    site.worker(pool)
    site.orchestrator()
    instance = site.client.start("mixture", "a")
    state = site.wait(instance)
    assert (state.status, state.output) == ("Completed", [210, "a", 15]), site.logs()


def test_killed_orchestrator(site: Site) -> None:
    site.worker()
    first, _second = site.orchestrator(), site.orchestrator()
    ids = [site.client.start("steps", n) for n in range(40)]
    site.until(lambda: len(site.client.history(ids[0])) > 4)
    first.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    site.until(lambda: len(list(site.client.list(name="steps", status="Completed"))) == 40)
    assert time.monotonic() - killed < 15
    assert [site.client.get(i).output for i in ids] == [n + 10 for n in range(40)]


def test_killed_orchestrator_that_holds_claims(site: Site) -> None:
    site.worker()
    first = site.orchestrator()
    instance = site.client.start("pausing")
    site.until(lambda: site.store.client.hget(site.store.keys.inst(instance), "stage") == b"2")
    first.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    site.orchestrator()
    assert site.wait(instance).output == 2
    assert time.monotonic() - killed < 15


def test_killed_worker(site: Site) -> None:
    first, _second = site.worker("prefork"), site.worker("threads")
    site.orchestrator()
    ids = [site.client.start("steps", n) for n in range(40)]
    site.until(lambda: len(site.client.history(ids[0])) > 4)
    os.killpg(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    site.until(lambda: len(list(site.client.list(name="steps", status="Completed"))) == 40)
    assert time.monotonic() - killed < 15
    assert [site.client.get(i).output for i in ids] == [n + 10 for n in range(40)]


def test_everything_is_killed_once_in_a_wide_fan_out(site: Site) -> None:
    worker, orchestrator = site.worker("solo"), site.orchestrator()
    instance = site.client.start("fan", 4000)
    group = f"{site.settings.hub}:open:{site.client.get(instance).execution}"
    site.until(lambda: int(site.store.client.hget(group, "g0d") or 0) > 600)
    os.killpg(worker.pid, signal.SIGKILL)
    os.killpg(orchestrator.pid, signal.SIGKILL)
    site.worker("solo")
    site.orchestrator()
    state = site.wait(instance, 100)
    assert (state.status, state.output) == ("Completed", sum(range(1, 4001))), site.logs()


def test_orchestrators_host_the_queue_triggers(site: Site) -> None:
    queue = f"{site.settings.hub}-orders"
    site.worker()
    for _ in range(2):
        site.orchestrator(FLOWS_QUEUE=queue)
    for n in range(20):
        site.client.push(queue, n)
    site.until(lambda: len(list(site.client.list(name="ordered", status="Completed"))) == 20)
    assert sorted(s.output for s in site.client.list(name="ordered")) == list(range(1, 21))


def test_sigterm_stops_at_once_and_cleanly(site: Site) -> None:
    process = site.orchestrator()
    process.terminate()
    began = time.monotonic()
    assert process.wait(10) == 0, site.logs()
    assert time.monotonic() - began < 5
    assert site.store.client.zcard(site.store.keys.beats) == 0


def test_blocking_code_is_interrupted_and_said(site: Site) -> None:
    site.orchestrator(CELERIAC_TURN_DEADLINE="1", CELERIAC_SLOW_TURN="0.3")
    instance = site.client.start("blocking")
    state = site.until(lambda: (s := site.client.get(instance)).waiting and s)
    assert "ran longer than 1 s" in state.waiting
    assert "flows_of_processes.py:" in state.waiting
    assert "must not block" in site.logs()
    other = site.client.start("fan", 0)
    assert site.wait(other, 20).output == 0


def test_code_that_cannot_be_interrupted_ends_its_process_and_is_charged(site: Site) -> None:
    fast = {"TURN_DEADLINE": "0.5", "LEASE": "1", "BEAT": "0.2", "MAX_CRASHES": "1"}
    fast = {f"CELERIAC_{name}": value for name, value in fast.items()}
    first = site.orchestrator(**fast)
    instance = site.client.start("stubborn")
    assert first.wait(30) == EXIT_STUCK, site.logs()
    state = site.client.get(instance)  # the process said who was to blame before it ended
    assert (state.status, "flows_of_processes.py:" in state.reason) == ("Suspended", True), state.reason
    assert "ended its process" in state.reason
    other = site.client.start("fan", 0)
    site.orchestrator(**fast)
    assert site.wait(other, 20).output == 0
    site.client.terminate(instance)


def test_timed_out_attempts_are_retried_then_fail(site: Site) -> None:
    site.worker("threads")
    site.orchestrator()
    state = site.wait(site.client.start("times_out"), 40)
    assert state.status == "Failed"
    assert state.failure is not None
    assert state.failure.is_caused_by("ActivityTimeoutError")


def test_wide_map_on_real_workers(site: Site) -> None:
    site.worker("solo")
    site.orchestrator()
    state = site.wait(site.client.start("fan", 10_000), 110)
    assert (state.status, state.output) == ("Completed", sum(range(1, 10_001))), site.logs()


def told_after(site: Site, instance: str, since: float) -> float:
    """Seconds from `since` until the running activity of the instance saw that it is not wanted."""
    told = site.folder / f"{instance}-told"
    site.until(told.exists)
    return float(told.read_text()) - since


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_running_activity_sees_that_it_is_not_wanted_any_more(site: Site, pool: str) -> None:
    site.worker(pool)
    site.orchestrator()
    ended, changed = site.client.start("waits_for_it"), site.client.start("changes_its_mind")
    site.until(lambda: all((site.folder / f"{i}-began").exists() for i in (ended, changed)))
    since = time.time()
    site.client.terminate(ended, "enough")
    assert told_after(site, ended, since) < 2, site.logs()
    since = time.time()
    site.client.raise_event(changed, "enough")
    assert told_after(site, changed, since) < 2, site.logs()
    assert site.client.get(changed).status == "Running"
    site.client.raise_event(changed, "end")
    assert site.wait(changed).output == "ended"


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_heartbeats_keep_an_attempt_alive_and_silence_fails_it(site: Site, pool: str) -> None:
    site.worker(pool)
    site.orchestrator()
    lively, silent = site.client.start("stays_lively"), site.client.start("goes_silent")
    state = site.wait(silent, 20)
    assert (state.status, state.failure and state.failure.is_caused_by("ActivityTimeoutError")) == (
        "Failed",
        True,
    )
    assert "the activity silent did not send a heartbeat within 1 s" in str(state.failure)
    site.until((site.folder / f"{silent}-told").exists)
    state = site.wait(lively, 20)
    assert (state.status, state.output) == ("Completed", "alive"), state.failure


def test_messages_lost_in_mid_run(site: Site) -> None:
    """The queue deleted, messages popped, destroyed and made unreadable, garbage between them: the results
    are right, and what could not be read is set aside.
    """
    client, queue = site.store.client, site.settings.queue_key()
    site.worker("threads")
    site.orchestrator()
    ids = [site.client.start("fan", 300), *(site.client.start("steps", n) for n in range(20))]
    harmed = 0
    for harm in range(2000):
        if harm % 40 == 0:
            client.lpush(queue, b"garbage", b"{}", b'{"body": 1}')
        if harm % 100 == 50:
            harmed += client.delete(queue)
        elif harm % 4 == 1 and (raw := client.rpop(queue)):
            harmed += 1
            client.rpush(queue, raw.replace(b'"body": "', b'"body": "", "old": "'))  # its header can be read
        elif harm % 4 == 3 and (raw := client.rpop(queue)):
            harmed += 1
            client.rpush(queue, raw[: len(raw) // 3])
        if harmed > 50:
            break
        time.sleep(0.005)
    assert harmed > 10
    states = [site.wait(instance, 120) for instance in ids]
    assert [state.output for state in states] == [sum(range(1, 301)), *(n + 10 for n in range(20))], (
        site.logs()
    )
    assert client.llen(site.store.keys.path("aside")) > 0
    assert int(client.hget(site.store.keys.path("mended"), "message")) > 0
