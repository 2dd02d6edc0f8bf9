"""The audit of the store: every way to lose a message, played by hand in Redis; and what a walk costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from audit_desk import WORKER, close, join, look, message, resend, round_of, running, take

from celeriac.celery_app.store import audit, flights, instances, steps
from celeriac.celery_app.store.records import Claimed, GroupOpen, OpenedStep

FOREIGN = b'{"body": "", "headers": {"task": "x"}}'

LOSSES: dict[str, Callable[[Any], Any]] = {
    "popped and dropped": lambda desk: desk.store.client.rpop(desk.queue),
    "the queue is deleted": lambda desk: desk.store.client.delete(desk.queue),
    "header destroyed": lambda desk: (desk.store.client.lset(desk.queue, -1, b"{}"), take(desk, 1)),
    "header forged": lambda desk: (
        desk.store.client.lset(desk.queue, -1, b'{"celeriac-step": "nonsense"}'), take(desk, 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_message_is_found_and_sent_again(desk: Any, loss: str) -> None:
    """At once, in one step of the walk; sent once, for the same attempt."""
    claimed = running(desk, 1)
    join(desk)
    assert look(desk).suspects == []
    LOSSES[loss](desk)
    (suspect,) = look(desk).suspects
    assert (suspect.kind, suspect.instance, suspect.seq, suspect.attempt) == ("message", "a", 1, 1)
    assert resend(desk, suspect, claimed) == "OK"
    assert resend(desk, suspect, claimed) == "GONE"
    assert desk.queued() == [message(claimed, 1).decode()]
    assert look(desk).suspects == []
    assert desk.store.run(audit.mended(desk.keys)) == {"message": 1}
    close(desk, claimed, 1)


def test_only_what_left_a_queue_is_lost(desk: Any) -> None:
    """Of many that wait, exactly those whose messages somebody popped, wherever others stand between."""
    claimed = running(desk, *range(1, 101))
    join(desk)
    desk.store.run(flights.publish(desk.keys, desk.queue, FOREIGN))
    desk.store.client.rpush(desk.queue, FOREIGN)
    take(desk, 11)  # the foreign one and ten of ours
    for _ in range(5):
        desk.store.client.rpop(desk.queue)
    # One of the five is taken for one that waits: the foreign message behind them was never counted.
    assert sorted(one.seq for one in look(desk).suspects) == [11, 12, 13, 14]
    desk.store.client.lrem(desk.queue, 1, FOREIGN)
    assert sorted(one.seq for one in look(desk).suspects) == [11, 12, 13, 14, 15]
    close(desk, claimed, *range(1, 101))


def test_a_deep_queue_with_a_slow_worker_is_left_alone(desk: Any) -> None:
    """5,000 messages, taken, finished, given back and rejected over many rounds: nothing is ever suspect."""
    seqs = range(1, 5001)
    claimed = running(desk, *seqs)
    join(desk)
    base, done = 0, 0
    for turn in range(12):
        taken = take(desk, 40, base).messages
        base += 40
        fields = [field for field, _, _ in taken]
        desk.store.run(flights.give_back(desk.keys, WORKER, fields[:15], head=True))
        desk.store.run(flights.give_back(desk.keys, WORKER, fields[15:20], head=False))
        for field, _, raw in taken[20:30]:
            done += desk.complete(claimed, int(raw.split(b":")[3])) == "OK"
            desk.store.run(flights.ack(desk.keys, WORKER, [field]))
        report = look(desk)
        assert (report.suspects, report.mended) == ([], []), f"in round {turn}"
    assert done == 120
    assert desk.store.run(audit.mended(desk.keys)) == {}
    close(desk, claimed, *seqs)


def test_a_message_given_back_and_then_lost(desk: Any) -> None:
    """At the head of a queue it is the next to go, and the audit knows it."""
    claimed = running(desk, 1, 2, 3)
    join(desk)
    fields = [field for field, _, _ in take(desk, 2).messages]
    desk.store.run(flights.give_back(desk.keys, WORKER, fields, head=True))
    assert look(desk).suspects == []
    desk.store.client.rpop(desk.queue)
    assert [one.seq for one in look(desk).suspects] == [1]
    close(desk, claimed, 1, 2, 3)


def test_a_lost_retry_and_a_lost_priority_queue(desk: Any) -> None:
    desk.start()
    claimed = desk.claim_one()
    urgent = f"{desk.queue}\x06\x163"
    opened = [OpenedStep(1, desk.queue, message(claimed, 1)), OpenedStep(2, urgent, message(claimed, 2))]
    desk.commit(desk.turn(claimed, messages=opened))
    park_retry(desk, claimed, 1)
    desk.store.run(flights.promote(desk.keys, now=desk.now + 50))
    assert look(desk).suspects == []
    desk.store.client.delete(urgent)
    assert [(one.seq, one.attempt) for one in look(desk).suspects] == [(2, 1)]
    desk.store.client.delete(desk.queue)
    lost = look(desk).suspects
    assert sorted((one.seq, one.attempt) for one in lost) == [(1, 2), (2, 1)]
    assert [resend(desk, one, claimed, urgent if one.seq == 2 else "") for one in lost] == ["OK", "OK"]
    assert desk.store.client.llen(urgent) == 1
    desk.store.client.delete(urgent)
    close(desk, claimed, 1, 2)


def park_retry(desk: Any, claimed: Claimed, seq: int) -> None:
    note = b'{"number":1,"at":1,"error_type":"E","message":"no"}'
    call = steps.retry(
        desk.keys, claimed.instance, claimed.execution, seq, 1, due=desk.now + 50, queue_key=desk.queue,
        message=message(claimed, seq, 2), failed=note, now=desk.now,
    )  # fmt: skip
    assert desk.store.run(call) == "OK"


def test_a_lost_parked_retry(desk: Any) -> None:
    """Listed again when its message is still there; else handed out, and a part takes its slot again."""
    desk.start()
    claimed = desk.claim_one()
    parts = [OpenedStep(1, desk.queue, message(claimed, 1), group=1)]
    desk.commit(desk.turn(claimed, messages=parts, groups=[GroupOpen(1, 1, 1, 1)]))
    park_retry(desk, claimed, 1)
    desk.store.client.delete(desk.keys.parked)
    assert [one.kind for one in look(desk).mended] == ["retry"]
    assert desk.store.client.zcard(desk.keys.parked) == 1
    desk.store.client.delete(desk.keys.parked, desk.keys.parked_body)
    (suspect,) = look(desk).suspects
    assert (suspect.kind, suspect.attempt) == ("retry", 2)
    assert desk.open(claimed.execution)["g1i"] == "0"
    assert resend(desk, suspect, claimed) == "OK"
    assert desk.open(claimed.execution)["g1i"] == "1"
    assert desk.open(claimed.execution)["1"].startswith("2|q|")
    desk.complete(claimed, 1, attempt=2, text=b"{", index=0)
    close(desk, claimed)


def test_a_running_step_that_nobody_runs(desk: Any) -> None:
    """Acknowledged without an outcome, or left by an incarnation that is forgotten."""
    claimed = running(desk, 1, 2, 3)
    join(desk)
    take(desk, 3)
    assert look(desk).suspects == []
    desk.store.run(flights.ack(desk.keys, WORKER, [2]))
    (suspect,) = look(desk).suspects
    assert (suspect.kind, suspect.seq) == ("run", 2)
    assert resend(desk, suspect, claimed) == "OK"
    desk.store.client.zrem(desk.keys.beats, WORKER)
    assert [one.kind for one in look(desk).mended] == ["flight"]
    returned = desk.store.run(flights.sweep_flights(desk.keys, now=desk.now)).returned
    assert returned == 2
    assert look(desk).suspects == []
    assert len(desk.queued()) == 3
    close(desk, claimed, 1, 2, 3)


def test_a_message_set_aside_counts_as_lost(desk: Any) -> None:
    claimed = running(desk, 1)
    join(desk)
    take(desk, 1)
    desk.store.run(flights.set_aside(desk.keys, WORKER, 1, "unreadable"))
    assert desk.store.client.llen(desk.keys.path("aside")) == 1
    (suspect,) = look(desk).suspects
    assert suspect.kind == "message"
    close(desk, claimed, 1)


def test_ever_more_rarely_and_counted(desk: Any) -> None:
    """At once, after 10 s, 20 s, 40 s, 80 s; the count travels with the suspect and ends with the step."""
    claimed = running(desk, 1)
    times, began = [], desk.now
    for number in range(5):
        desk.store.client.delete(desk.queue)
        while not (found := look(desk).suspects):
            pass
        assert found[0].count == number
        times.append((desk.now - began) // 1000)
        assert resend(desk, found[0], claimed) == "OK"
        began = desk.now
    assert all(least <= time <= least + 6 for least, time in zip((0, 10, 20, 40, 80), times, strict=True))
    assert desk.open(claimed.execution)["l1"].startswith("5 ")
    close(desk, claimed, 1)


def test_a_step_of_an_older_release(desk: Any) -> None:
    """Queued without saying where: it is noted first, and sent again when its queue has gone past it."""
    claimed = running(desk, 1, 2)
    desk.store.client.hset(desk.keys.open(claimed.execution), "1", "1")
    (suspect,) = look(desk).suspects
    assert resend(desk, suspect, claimed) == "NOTED"
    assert look(desk).suspects == []
    assert len(desk.queued()) == 2
    desk.store.client.delete(desk.queue)
    assert len(look(desk).suspects) == 2
    close(desk, claimed, 1, 2)


def test_on_kombu_s_own_transport(desk: Any) -> None:
    """A message that left may be in a worker's memory: found after 10 s, then 20 s; one copy starts."""
    claimed = running(desk, 1)
    desk.store.client.rpop(desk.queue)
    assert look(desk, stock=True).suspects == []
    desk.now += 10_000
    (suspect,) = look(desk, stock=True).suspects
    assert resend(desk, suspect, claimed) == "OK"
    desk.store.client.rpop(desk.queue)
    assert look(desk, stock=True).suspects == []
    begin = [
        flights.begin(desk.keys, claimed.execution, 1, 1, token, again=again, now=desk.now)
        for token, again in (("t1", False), ("t1", False), ("t2", False), ("t3", True))
    ]
    assert [desk.store.run(call) for call in begin] == [True, True, False, True]
    desk.now += 10_000_000
    assert look(desk, stock=True).suspects == []
    close(desk, claimed, 1)
    assert not desk.store.run(begin[0])


# --- what it costs --------------------------------------------------------------------------------


def test_one_walk_for_all_and_bounded_work(desk: Any) -> None:
    """2,000 instances that wait: a call looks at 100 of them at most, and a second caller waits its turn."""
    client = desk.store.client
    for number in range(2000):
        desk.start(f"i{number}")
    while desk.claim(100):
        client.delete(desk.keys.claims("o1"))
    for number in range(2000):
        client.hset(desk.keys.inst(f"i{number}"), mapping={"stage": "0", "claim": ""})
        client.delete(desk.keys.inbox(f"i{number}"))
    look(desk)
    calls, most, began = 0, 0, round_of(desk)
    while round_of(desk) == began:
        before = commands(client)
        report = desk.store.run(audit.audit(desk.keys, now=desk.now))
        most = max(most, commands(client) - before)
        assert desk.store.run(audit.audit(desk.keys, now=desk.now)).wait == report.wait
        calls, desk.now = calls + 1, desk.now + report.wait
    assert 18 <= calls <= 32
    assert most <= 100 * 8
    for number in range(2000):
        desk.store.run(instances.terminate(desk.keys, f"i{number}", "", desk.now))


def commands(client: Any) -> int:
    """Commands so far, those inside scripts too."""
    stats = client.info("commandstats")
    return sum(entry["calls"] for name, entry in stats.items() if name != "cmdstat_info")


def test_more_suspects_than_one_caller_may_take(desk: Any) -> None:
    """The walk stays until the rest is handed out too, and goes on although nobody mends them."""
    claimed = running(desk, *range(1, 121))
    desk.store.client.delete(desk.queue)
    found: set[int] = set()
    for _ in range(10):
        report = desk.store.run(audit.audit(desk.keys, now=desk.now))
        assert len(report.suspects) <= 50
        for suspect in report.suspects:
            found.add(suspect.seq)
            assert resend(desk, suspect, claimed) == "OK"
        desk.now += report.wait
    assert found == set(range(1, 121))
    desk.store.client.delete(desk.queue)
    desk.now += 10_000
    waits = []
    for _ in range(60):
        waits.append(desk.store.run(audit.audit(desk.keys, now=desk.now)).wait)
        desk.now += waits[-1]
    assert waits.index(250) == 11
    close(desk, claimed, *range(1, 121))
