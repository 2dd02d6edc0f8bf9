"""A group that is dropped whole: its parts and counters go in one commit, and nothing comes of it later."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.store import flights, instances, steps
from celeriac.celery_app.store.records import Commit, Deadline, GroupOpen, OpenedStep, open_text
from celeriac.orchestrations.history import EventRaised, PartOutcome

FAILED = b'{"number":1,"at":1,"error_type":"E","message":"no"}'
FIRST, LATER = 10, 10_000  # the seqs of the group and of another activity


def step(desk: Any, claimed: Any, seq: int, group: int = -1) -> OpenedStep:
    """An activity to open, with a message that a take looks into."""
    message = b'{"headers": {"celeriac-step": "%s:%d:1"}}' % (claimed.execution.encode(), seq)
    due = [Deadline("s", desk.now + 60_000)] if group >= 0 else []
    return OpenedStep(seq, desk.queue, message, group=group, deadlines=due)


def opened(desk: Any, size: int, window: int) -> Any:
    """Instance `a` with one plain activity and a group, its first window emitted."""
    desk.start()
    claimed = desk.claim_one()
    group = GroupOpen(FIRST, size, window, min(size, window))
    messages = [step(desk, claimed, FIRST + n, FIRST) for n in range(group.cursor)]
    messages.insert(0, step(desk, claimed, LATER))
    desk.commit(desk.turn(claimed, groups=[group], messages=messages))
    return claimed


def wake(desk: Any) -> Any:
    text = open_text(EventRaised(name="go"))
    desk.store.run(instances.raise_event(desk.keys, "a", text, now=desk.now))
    return desk.claim_one()


def completed(desk: Any, claimed: Any, index: int) -> str:
    text = open_text(PartOutcome(result="1"))
    return desk.complete(claimed, FIRST + index, text=text, index=index)


def retried(desk: Any, claimed: Any, index: int) -> str:
    call = steps.retry(
        desk.keys, "a", claimed.execution, FIRST + index, 1, due=desk.now + 5, queue_key=desk.queue,
        message=b"again", failed=FAILED, start_by=desk.now + 60_000, now=desk.now,
    )  # fmt: skip
    return desk.store.run(call)


def residue(desk: Any) -> list[Any]:
    client, keys = desk.store.client, desk.keys
    return [
        *client.zrange(keys.parked, 0, -1),
        *client.hkeys(keys.parked_body),
        *client.zrange(keys.deadlines, 0, -1),
    ]


@pytest.mark.parametrize("others", [0, 50], ids=["fewer open than emitted", "more open than emitted"])
def test_queued_running_and_parked_parts_are_gone_with_the_counters(desk: Any, others: int) -> None:
    claimed = opened(desk, 20, 10)
    if others:
        more = [step(desk, claimed, LATER + 1 + n) for n in range(others)]
        desk.commit(desk.turn(wake(desk), messages=more))
    desk.beat("w1")
    taken = desk.store.run(flights.take(desk.keys, "w1", 0, 4, [(desk.queue, 4)], now=desk.now))
    assert [completed(desk, claimed, 0), retried(desk, claimed, 1)] == ["OK", "OK"]
    fields = desk.open(claimed.execution)
    assert fields[f"{FIRST + 1}"].startswith("2|p|")
    assert "|r|w1|" in fields[f"{FIRST + 2}"]

    turn = desk.turn(wake(desk), drop=[FIRST])
    assert turn.items == 2
    assert not desk.commit(turn).ready
    left = desk.open(claimed.execution)
    assert sorted(map(int, left)) == list(range(LATER, LATER + 1 + others))
    assert (residue(desk), desk.inbox()) == ([], [])
    assert {completed(desk, claimed, n) for n in range(1, 20)} == {"GONE"}
    assert retried(desk, claimed, 2) == "GONE"
    again = desk.store.run(flights.take(desk.keys, "w1", 4, 100, [(desk.queue, 100)], now=desk.now))
    assert (len(again.messages), again.dropped) == (others, 7)
    held = [number for number, _, _ in (*taken.messages, *again.messages)]
    desk.store.run(flights.ack(desk.keys, "w1", held))


def test_an_unanswered_window_is_asked_of_nobody(desk: Any) -> None:
    claimed = opened(desk, 20, 4)
    for n in range(2):
        assert completed(desk, claimed, n) == "OK"
    assert desk.inbox() == [f"E{FIRST}"]
    held = wake(desk)
    event_only = Commit(
        instance="a", execution=held.execution, claim=held.claim, base=held.history_length,
        events=[held.inbox[1]], drop=[FIRST],
    )  # fmt: skip
    assert desk.commit(event_only).ready  # the E item is still there, and finds no group
    stale = desk.claim_one()
    assert stale.inbox[0] == f"E{FIRST}".encode()
    assert not desk.commit(desk.turn(stale)).ready
    assert list(desk.open(claimed.execution)) == [str(LATER)]


def test_a_group_that_is_over_or_was_never_there_can_be_dropped(desk: Any) -> None:
    claimed = opened(desk, 2, 2)
    assert [completed(desk, claimed, n) for n in range(2)] == ["OK", "OK"]
    turn = desk.turn(desk.claim_one(), drop=[FIRST, 77])
    assert not desk.commit(turn).ready
    assert list(desk.open(claimed.execution)) == [str(LATER)]


def test_a_commit_opens_a_group_beside_one_that_it_drops(desk: Any) -> None:
    claimed = opened(desk, 6, 2)
    other = GroupOpen(FIRST + 6, 3, 1, 1)
    message = OpenedStep(FIRST + 6, desk.queue, b"m", group=FIRST + 6)
    desk.commit(desk.turn(wake(desk), drop=[FIRST], groups=[other], messages=[message]))
    fields = desk.open(claimed.execution)
    assert {name for name in fields if name.isdigit()} == {str(LATER), str(FIRST + 6)}
    assert (fields[f"g{FIRST + 6}"], fields[f"g{FIRST + 6}i"]) == ("3", "1")
    assert f"g{FIRST}" not in fields
