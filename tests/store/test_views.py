"""Reading: one instance, listings with filters and pages, progress, what is served."""

from __future__ import annotations

import random
from typing import Any

import pytest

from celeriac.celery_app.store import GoneError, payloads, steps, turns, views
from celeriac.celery_app.store.records import ChildStart, GroupOpen, OpenedStep, Query, new_execution
from celeriac.orchestrations.errors import InstanceNotFoundError, InvalidArgumentError
from celeriac.orchestrations.history import ExecutionStarted, decode_event


def pages(desk: Any, limit: int, **query: Any) -> list[str]:
    found: list[str] = []
    cursor = ""
    while True:
        page = desk.store.run(views.list_instances(desk.keys, Query(**query), limit, cursor))
        assert len(page.items) <= limit
        found += [item.instance for item in page.items]
        cursor = page.cursor
        if not cursor:
            return found


def test_a_record_is_read_whole(desk: Any) -> None:
    with pytest.raises(InstanceNotFoundError):
        desk.store.run(views.get(desk.keys, "a"))
    reply = desk.start(tags={"k": "v"}, version="2")
    record = desk.store.run(views.get(desk.keys, "a"))
    assert (record.execution, record.version, record.tags, record.inbox_length) == (
        reply.execution, "2", {"k": "v"}, 1,
    )  # fmt: skip
    assert record.started is not None
    desk.end()
    record = desk.store.run(views.get(desk.keys, "a"))
    assert (record.status, record.output, record.history_length, record.failure) == (
        "Completed",
        "1",
        2,
        None,
    )
    assert isinstance(decode_event(record.started), ExecutionStarted)
    assert len(desk.store.run(views.history(desk.keys, "a", 1))) == 1


def test_every_filter_finds_the_same_as_looking_at_all(desk: Any) -> None:
    dice = random.Random(1)
    made: dict[str, dict[str, Any]] = {}
    for n in range(60):
        desk.now += dice.choice((0, 0, 1))
        name, tag = dice.choice(("x", "y")), dice.choice(("red", "blue"))
        made[f"{dice.choice('ab')}{n:02}"] = {"name": name, "tags": {"colour": tag}, "at": desk.now}
        desk.start(list(made)[-1], name=name, tags={"colour": tag})
    done = {c.instance for c in desk.claim(20) if desk.commit(desk.turn(c, status="Completed"))}
    newest = sorted(made, key=lambda i: (made[i]["at"], i), reverse=True)
    middle = made[newest[30]]["at"]
    cases: list[tuple[dict[str, Any], Any]] = [
        ({}, lambda i: True),
        ({"status": ("Completed",)}, lambda i: i in done),
        ({"status": ("Completed", "Pending"), "name": "x"}, lambda i: made[i]["name"] == "x"),
        (
            {"name": "y", "tag": "colour=red"},
            lambda i: made[i]["name"] == "y" and made[i]["tags"]["colour"] == "red",
        ),
        ({"created_from": middle}, lambda i: made[i]["at"] >= middle),
        ({"created_to": middle}, lambda i: made[i]["at"] < middle),
    ]
    for query, fits in cases:
        for limit in (1, 7, 100):
            assert pages(desk, limit, **query) == [i for i in newest if fits(i)], query
    assert pages(desk, 7, prefix="a", name="x") == [
        i for i in sorted(made) if i[0] == "a" and made[i]["name"] == "x"
    ]


def test_a_page_goes_on_where_it_stopped_when_its_last_entry_has_left(desk: Any) -> None:
    for n in range(6):
        desk.start(f"i{n}")
    query = Query(status=("Pending",))
    page = desk.store.run(views.list_instances(desk.keys, query, 2))
    assert [i.instance for i in page.items] == ["i5", "i4"]
    for claimed in desk.claim(6):
        if claimed.instance in ("i4", "i5"):
            desk.commit(desk.turn(claimed, status="Completed"))
        else:
            desk.commit(desk.turn(claimed, status="Pending"))
    rest = desk.store.run(views.list_instances(desk.keys, query, 9, page.cursor))
    assert [i.instance for i in rest.items] == ["i3", "i2", "i1", "i0"]
    for bad in ("zzz", "1:"):
        with pytest.raises(InvalidArgumentError, match="cursor"):
            views.list_instances(desk.keys, query, 2, bad)


def test_progress_shows_what_an_instance_waits_for(desk: Any) -> None:
    desk.start()
    event = ExecutionStarted(execution=new_execution(), instance="kid", name="child")
    parts = [OpenedStep(10 + n, desk.queue, b"m", group=10) for n in range(2)]
    claimed = desk.claim_one()
    desk.commit(
        desk.turn(
            claimed, messages=[OpenedStep(1, desk.queue, b"m"), *parts], timers=[(2, desk.now + 5)],
            children=[ChildStart.of(event, seq=3)], groups=[GroupOpen(10, 5, 2, 2)],
        )
    )  # fmt: skip
    failed = b'{"number":1,"at":1,"error_type":"E","message":"no"}'
    retry = steps.retry(
        desk.keys, "a", claimed.execution, 1, 1, due=desk.now + 7, queue_key=desk.queue, message=b"m",
        failed=failed, now=desk.now,
    )  # fmt: skip
    desk.store.run(retry)
    running = f"1|r|w1|{desk.now}|g10"
    desk.store.client.hset(desk.keys.open(claimed.execution), "11", running)
    found = desk.store.run(views.progress(desk.keys, "a"))
    assert [(p.seq, p.kind, p.state) for p in found] == [
        (1, "activity", "parked"), (2, "timer", ""), (3, "child", ""), (10, "group", "open"),
        (10, "activity", "queued"), (11, "activity", "running"),
    ]  # fmt: skip
    assert (found[0].due, found[0].attempt, len(found[0].failures)) == (desk.now + 7, 2, 1)
    assert (found[1].due, found[2].child) == (desk.now + 5, "kid")
    assert (found[3].size, found[3].in_flight, found[3].emitted) == (5, 2, 2)
    assert (found[5].worker, found[5].group) == ("w1", 10)


def test_what_was_ever_served_stays_noted(desk: Any) -> None:
    assert desk.store.run(views.note_served(desk.keys, {"o flow": ["1"], "a act": [""]})) == 2
    assert desk.store.run(views.note_served(desk.keys, {"o flow": ["2", "1"]})) == 1
    assert desk.store.run(views.served(desk.keys)) == {"o flow": ["1", "2"], "a act": [""]}


def test_large_texts_are_packed_and_missing_ones_named(desk: Any) -> None:
    for text in ('"' + "x" * 100_000 + '"', "1", '"ä"'):
        assert payloads.unpack(payloads.pack(text)) == text
    assert len(payloads.pack('"' + "x" * 100_000 + '"')) < 1_000
    desk.start()
    held = desk.claim_one()
    desk.store.run(payloads.stage(desk.keys, "a", held.execution, held.claim, [("p1", b"=1")]))
    with pytest.raises(GoneError, match="p2"):
        desk.store.run(payloads.fetch(desk.keys, held.execution, ["p1", "p2"]))
    with pytest.raises(GoneError):
        desk.store.run(payloads.stage(desk.keys, "a", "f" * 16, held.claim, [("p1", b"=1")]))
    desk.store.run(turns.hand_back(desk.keys, "o1", now=desk.now))


def test_processes_say_what_they_are(desk: Any) -> None:
    desk.store.client.hset(desk.keys.procs, "o1", '{"pid":1}')
    (process,) = desk.store.run(views.processes(desk.keys))
    assert (process.incarnation, process.info, process.lapses_at) == ("o1", b'{"pid":1}', desk.now + 10_000)
