"""Redis was away, so nobody could beat: who lived when it went is given time to come back, once."""

from __future__ import annotations

import re
from typing import Any

import pytest

from celeriac.celery_app.store import FencedError, StoreFullError, flights, queues, turns
from celeriac.celery_app.store.records import Deadline, OpenedStep

LEASE = 10_000
BEAT = 2_000


def sweep_both(desk: Any, lease: int = LEASE) -> Any:
    desk.store.run(flights.sweep_flights(desk.keys, lease=lease, now=desk.now))
    return desk.store.run(turns.sweep(desk.keys, lease=lease, now=desk.now))


def beat(desk: Any, *names: str, join: bool = False, lease: int = LEASE) -> None:
    for name in names:
        desk.store.run(flights.beat(desk.keys, name, lease, join=join, now=desk.now))


def living(desk: Any) -> set[str]:
    found = desk.store.client.zrangebyscore(desk.keys.beats, "(0", "+inf")
    return {name.decode() for name in found}


def pass_time(desk: Any, ms: int, *beating: str) -> None:
    """Time in which these beat, and somebody sweeps."""
    end = desk.now + ms
    while desk.now < end:
        desk.now = min(end, desk.now + BEAT)
        beat(desk, *beating)
        sweep_both(desk)


@pytest.fixture
def fleet(desk: Any) -> Any:
    """An orchestrator with a claim, a worker and a listener with a message each; `w2` holds nothing."""
    desk.store.client.delete(desk.keys.beats)
    beat(desk, "o1", "w1", "t1", "w2", join=True)
    desk.start("a")
    (claimed,) = desk.store.run(turns.claim(desk.keys, "o1", 1, 10, desk.now))
    desk.claimed = claimed
    desk.store.run(flights.publish(desk.keys, desk.queue, b"m"))
    desk.store.run(flights.take(desk.keys, "w1", 0, 1, [(desk.queue, 1)], now=desk.now))
    desk.orders = f"{desk.keys.hub}-orders"
    desk.store.run(queues.push(desk.orders, b"1"))
    desk.store.run(queues.take(desk.keys, "t1", desk.orders, 1, 1, desk.now))
    yield desk
    desk.store.client.delete(desk.queue, desk.orders)
    for key in desk.store.client.keys(f"{desk.keys.hub}*"):
        desk.store.client.delete(key)


@pytest.mark.parametrize("away", [LEASE // 2 + 1 + BEAT, LEASE, 60_000, 3_600_000])
@pytest.mark.parametrize("first", ["sweep", "beat", "adopt"])
def test_after_a_silence_nobody_is_given_up_for_a_lease(fleet: Any, away: int, first: str) -> None:
    """Whatever call comes first: a sweep, somebody's beat, or a worker that takes over from itself."""
    fleet.now += away
    if first == "beat":
        beat(fleet, "w2")
    elif first == "adopt":
        fleet.store.run(flights.adopt(fleet.keys, "w2", "w3", keep=[1], lease=LEASE, now=fleet.now))
    sweep_both(fleet)
    fleet.now += LEASE - 1
    assert sweep_both(fleet).claims_back == 0
    assert living(fleet) >= {"o1", "w1", "t1"}
    beat(fleet, "o1", "w1", "t1")
    pass_time(fleet, 3 * LEASE, "o1", "w1", "t1")
    assert living(fleet) == {"o1", "w1", "t1"}  # the others did not come back
    assert fleet.store.client.llen(fleet.queue) == 0
    fleet.commit(fleet.turn(fleet.claimed))


def test_who_does_not_come_back_is_given_up_a_lease_later(fleet: Any) -> None:
    fleet.now += 60_000
    sweep_both(fleet)
    pass_time(fleet, LEASE - 1, "w2")
    assert living(fleet) == {"o1", "w1", "t1", "w2"}
    fleet.now += 1
    fleet.store.run(flights.sweep_flights(fleet.keys, now=fleet.now))
    report = fleet.store.run(turns.sweep(fleet.keys, now=fleet.now))
    assert (report.claims_back, report.messages_back) == (1, 1)
    assert fleet.store.client.llen(fleet.queue) == 1
    assert living(fleet) == {"w2"}
    with pytest.raises(FencedError):
        fleet.commit(fleet.turn(fleet.claimed))


def test_one_that_is_dead_among_the_living_is_given_up_in_time(fleet: Any) -> None:
    """While anybody is heard there is no silence."""
    pass_time(fleet, LEASE - 1, "o1", "t1", "w2")
    assert "w1" in living(fleet)
    pass_time(fleet, 1, "o1", "t1", "w2")
    assert living(fleet) == {"o1", "t1", "w2"}
    assert fleet.store.client.llen(fleet.queue) == 1


def test_what_had_lapsed_before_is_judged_as_ever(fleet: Any) -> None:
    """The last that was heard came after the lease of w1 had ended, and before a sweep saw it."""
    for _ in range(4):
        fleet.now += 3_000
        beat(fleet, "o1", "t1", "w2")
    fleet.now += 60_000
    sweep_both(fleet)
    assert living(fleet) == {"o1", "t1", "w2"}


def test_silences_in_a_row_keep_nothing_dead_for_ever(fleet: Any) -> None:
    """Redis answers for a moment once a minute. Who uses these moments lives on; who does not has three."""
    seen = []
    for _ in range(12):
        fleet.now += 60_000
        beat(fleet, "o1", "t1", "w2")
        sweep_both(fleet)
        seen.append("w1" in living(fleet))
    assert seen == [True, True] + [False] * 10
    assert living(fleet) == {"o1", "t1", "w2"}


def test_who_beat_in_the_last_moment_outlives_the_next_silence(fleet: Any) -> None:
    """The second silence begins just before the first is made up for."""
    fleet.now += 60_000
    sweep_both(fleet)
    pass_time(fleet, LEASE - 10, "o1", "w1", "t1")
    fleet.now += 60_000
    sweep_both(fleet)
    assert living(fleet) == {"o1", "w1", "t1"}  # w2 had its lease
    fleet.now += LEASE // 2 - 20
    sweep_both(fleet)
    assert living(fleet) == {"o1", "w1", "t1"}


def test_one_process_that_is_slow_to_beat_gives_up_the_dead_all_the_same(fleet: Any) -> None:
    """The only one alive is heard every 6 s: each time looks like a silence."""
    began = fleet.now
    while living(fleet) != {"w2"}:
        fleet.now += LEASE // 2 + 1000
        beat(fleet, "w2")
        sweep_both(fleet)
        assert fleet.now - began <= 3 * LEASE


def test_deadlines_that_passed_in_a_silence_wait_for_a_lease(desk: Any) -> None:
    """The attempt may be alive, or have an outcome that its worker could not write yet."""
    desk.start()
    due = [Deadline("h", desk.now + 1000), Deadline("c", desk.now + 70_000)]
    claimed = desk.step(messages=[OpenedStep(1, desk.queue, b"m", deadlines=due)])
    sweep_both(desk)
    desk.now += 61_000
    assert sweep_both(desk).lapsed == []
    desk.now += LEASE // 2 - 1
    sweep_both(desk)
    desk.now += LEASE // 2
    assert sweep_both(desk).lapsed == []  # the one of kind c is past its time as well by now
    desk.now += 1
    assert {late.kind for late in sweep_both(desk).lapsed} == {"h", "c"}
    desk.complete(claimed, 1)
    desk.claim_one()
    desk.store.run(turns.hand_back(desk.keys, desk.incarnation, now=desk.now))


def test_deadlines_from_before_a_silence_are_judged_at_once(desk: Any) -> None:
    desk.start()
    due = [Deadline("s", desk.now + 1000)]
    claimed = desk.step(messages=[OpenedStep(1, desk.queue, b"m", deadlines=due)])
    desk.now += 1001
    desk.heard()
    desk.now += 60_000
    assert len(sweep_both(desk).lapsed) == 1
    desk.complete(claimed, 1)
    desk.claim_one()
    desk.store.run(turns.hand_back(desk.keys, desk.incarnation, now=desk.now))


def test_a_clock_that_is_set_back_and_forth(fleet: Any) -> None:
    """Back: leases go back with it. Forth: as after a silence. The dead are found, the living not."""
    fleet.now -= 3_600_000
    pass_time(fleet, LEASE + BEAT, "o1", "t1", "w2")
    assert living(fleet) == {"o1", "t1", "w2"}
    fleet.now += 3_600_000
    sweep_both(fleet)
    assert living(fleet) == {"o1", "t1", "w2"}
    pass_time(fleet, LEASE, "o1", "t1")
    assert living(fleet) == {"o1", "t1"}


def test_a_copy_of_a_running_step_is_not_taken_before_its_holder_is_judged(desk: Any) -> None:
    """A take may be what comes first after a silence."""
    desk.start()
    claimed = desk.claim_one()
    message = b'{"headers": {"celeriac-step": "%s:1:1"}}' % claimed.execution.encode()
    desk.commit(desk.turn(claimed, messages=[OpenedStep(1, desk.queue, message)]))
    beat(desk, "w1", "w2", join=True)
    take = {"limit": 1, "queues": [(desk.queue, 1)]}
    desk.store.run(flights.take(desk.keys, "w1", 0, **take, now=desk.now))
    desk.store.run(flights.publish(desk.keys, desk.queue, message))
    desk.now += 60_000
    assert desk.store.run(flights.take(desk.keys, "w2", 0, **take, now=desk.now)).dropped == 1
    assert re.match(r"1\|r\|w1\|", desk.open(claimed.execution)["1"])
    for name in ("w1", "w2"):
        desk.store.run(flights.forget(desk.keys, name, LEASE))
    desk.store.client.delete(desk.queue)
    desk.complete(claimed, 1)
    desk.claim_one()
    desk.store.run(turns.hand_back(desk.keys, desk.incarnation, now=desk.now))


def test_without_memory_nobody_is_judged(fleet: Any) -> None:
    """Every beat is refused then; it is a silence, which ends when there is memory again."""
    client = fleet.store.client
    client.rpush(fleet.keys.closing, "cancel\n00\nnobody\n")
    client.zadd(
        fleet.keys.beats, {"o9": 0}
    )  # found dead, and to be forgotten: the first thing that a sweep would do
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreFullError):
            beat(fleet, "o1")
        with pytest.raises(StoreFullError):
            fleet.store.run(flights.sweep_flights(fleet.keys, now=fleet.now + 60_000))
        report = fleet.store.run(turns.sweep(fleet.keys, now=fleet.now + 60_000))
    finally:
        client.config_set("maxmemory", "0")
    assert (report.closed, report.claims_back, report.dead) == (1, 0, [])
    fleet.now += 60_000
    sweep_both(fleet)
    assert living(fleet) == {"o1", "w1", "t1", "w2"}


def test_many_processes(desk: Any) -> None:
    """All of their leases are prolonged, in bounded time."""
    names = {f"w{n}": desk.now + LEASE for n in range(5000)}
    desk.store.client.zadd(desk.keys.beats, names)
    sweep_both(desk)
    desk.now += 60_000
    assert desk.store.run(flights.sweep_flights(desk.keys, now=desk.now)).condemned == 0
    assert desk.store.client.zcount(desk.keys.beats, desk.now + LEASE, "+inf") >= 5000
    desk.store.client.delete(desk.keys.beats)
