"""Several turns in one call: each is applied or refused for itself, exactly as alone."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.orchestrator.answers import Done, Wait
from celeriac.celery_app.orchestrator.batches import BYTES, ITEMS, TURNS, Sending
from celeriac.celery_app.orchestrator.turns import Draft
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import FencedError, StoreFullError, turns
from celeriac.celery_app.store.errors import ClashError, GoneError
from celeriac.celery_app.store.records import (
    ChildStart,
    Claimed,
    Commit,
    CommitReply,
    NextRun,
    OpenedStep,
    Send,
    open_text,
)
from celeriac.orchestrations.history import EventRaised, ExecutionStarted

NOW = 1_700_000_000_000


def started(desk: Any, count: int) -> list[Claimed]:
    for n in range(count):
        desk.start(f"i{n}")
    return desk.claim(limit=count)


def call(desk: Any, turn: Commit) -> Any:
    return turns.commit(desk.keys, turn, desk.now)


def state(desk: Any) -> dict[str, Any]:
    """Everything there is, without what differs from claim to claim."""
    client, found = desk.store.client, {}
    for key in client.keys(f"{desk.keys.hub}*"):
        kind = client.type(key)
        if kind == b"hash":
            found[key] = client.hgetall(key)
        elif kind == b"list":
            found[key] = client.lrange(key, 0, -1)
        elif kind == b"zset":
            found[key] = client.zrange(key, 0, -1, withscores=True)
        elif kind == b"set":
            found[key] = client.smembers(key)
    return found


def test_each_is_applied_and_the_second_time_changes_nothing(desk: Any) -> None:
    claimed = started(desk, 40)
    calls = [call(desk, desk.turn(one, **desk.activity(0))) for one in claimed]
    replies = desk.store.run(turns.commit_all(calls))
    assert replies == [CommitReply(False, [], False)] * 40
    assert desk.store.client.llen(desk.queue) == 40
    assert [len(desk.history(one.instance)) for one in claimed] == [2] * 40
    before = state(desk)
    assert desk.store.run(turns.commit_all(calls)) == [CommitReply(False, [], True)] * 40
    assert state(desk) == before


def test_a_refused_one_is_alone_in_that(desk: Any) -> None:
    first, fenced, gone, clash, last = started(desk, 5)
    desk.store.client.set("no-queue", "x")
    bad = OpenedStep(0, "no-queue", b"message")
    asked = [
        desk.turn(first, **desk.activity(0)),
        desk.turn(fenced),
        desk.turn(gone),
        desk.turn(clash, messages=[bad]),
        desk.turn(last, **desk.activity(0)),
    ]
    asked[1].claim, asked[2].instance = "other.1", "nobody"
    replies = desk.store.run(turns.commit_all([call(desk, turn) for turn in asked]))
    assert [type(reply) for reply in replies] == [
        CommitReply,
        FencedError,
        GoneError,
        ClashError,
        CommitReply,
    ]
    for turn, reply in zip(asked[1:4], replies[1:4], strict=True):
        with pytest.raises(type(reply)) as alone:
            desk.commit(turn)
        assert str(alone.value) == str(reply)
    assert [len(desk.history(f"i{n}")) for n in range(5)] == [2, 0, 0, 0, 2]
    desk.store.client.delete("no-queue")
    desk.store.run(turns.hand_back(desk.keys, desk.incarnation, now=desk.now))


def played(desk: Any, together: bool) -> list[str]:
    """Three turns that touch each other: the first opens a step, a timer and a child and sends to both,
    the second ends, the third goes on in a next run. What is left of it, without what differs each time.
    """
    store, client, hub = desk.store, desk.store.client, desk.keys.hub
    claimed = started(desk, 3)
    event = open_text(EventRaised(name="news", input="1"))
    asked = [
        desk.turn(
            claimed[0],
            messages=[OpenedStep(0, "shared", b"message")],
            timers=[(1, NOW + 1000)],
            children=[ChildStart.of(child_of("i0"), seq=2)],
            sends=[Send(instance="i1", event=event), Send(instance="i2", event=event)],
        ),
        desk.turn(claimed[1], status="Completed", output="1"),
        desk.turn(claimed[2], next_run=NextRun(execution="f" * 16, started=open_text(child_of("")))),
    ]
    calls = [turns.commit(desk.keys, turn, desk.now) for turn in asked]
    replies = store.run(turns.commit_all(calls)) if together else [store.run(call) for call in calls]
    left = [f"{key} {client.type(key)} {content}" for key, content in state(desk).items()]
    told = "\n".join(sorted([*left, repr(replies), repr(client.lrange("shared", 0, -1))]))
    for n, one in enumerate(claimed):
        told = told.replace(one.execution, f"run{n}")
    for key in [*client.keys(f"{hub}*"), "shared"]:
        client.delete(key)
    return sorted(told.replace(hub, "hub").splitlines())


def child_of(parent: str) -> ExecutionStarted:
    return ExecutionStarted(execution="e" * 16, instance="child", name="flow", input="1", parent=parent)


def test_a_batch_leaves_what_its_turns_leave_one_by_one(desk: Any) -> None:
    alone = played(desk, together=False)
    assert played(type(desk)(desk.store), together=True) == alone
    assert any("message" in line for line in alone)


def answers(desk: Any, claimed: list[Claimed], **more: Any) -> list[Done | Wait]:
    made: list[Done | Wait] = []
    for one in claimed:
        commit = desk.turn(one, **more)
        draft = Draft(commit, run=None, recorded=[], staged={}, failed_parts=[])  # type: ignore[arg-type]  unused
        made.append(Done(one, draft, turns.commit(desk.keys, commit, desk.now), None))
    return made


def sent(desk: Any, some: list[Done | Wait]) -> tuple[list[Any], int]:
    sending = Sending(desk.keys, Settings(), some)
    calls = sending.calls()
    return sending.replies(desk.store, desk.store.run_all(calls)), len(calls)


def test_the_answers_keep_their_order_around_one_that_waits(desk: Any) -> None:
    claimed = started(desk, TURNS + 5)
    some = answers(desk, claimed)
    some[2] = Wait(claimed[2], 1000, "later")
    replies, calls = sent(desk, some)
    assert calls == 4  # two turns, the wait, TURNS turns, the last two
    assert [isinstance(reply, CommitReply) for reply in replies] == [n != 2 for n in range(TURNS + 5)]
    assert replies[2] is False


@pytest.mark.parametrize("large", ["items", "bytes"])
def test_large_turns_do_not_share_a_call(desk: Any, large: str) -> None:
    claimed = started(desk, 3)
    event = b"x" * (BYTES // 2) if large == "bytes" else b"{}"
    _, calls = sent(desk, answers(desk, claimed, events=[event] * (1 if large == "bytes" else ITEMS // 2)))
    assert calls == 3


def test_a_call_refused_as_a_whole_is_sent_turn_by_turn(desk: Any) -> None:
    claimed = started(desk, 3)
    some = answers(desk, claimed, **desk.activity(0))
    sending = Sending(desk.keys, Settings(), some)
    desk.store.run(sending.calls()[0])  # as if a defect had come up behind the last of them
    replies = sending.replies(desk.store, [StoreFullError("no memory")])
    assert replies == [CommitReply(False, [], True)] * 3
