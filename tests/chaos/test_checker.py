"""The checker finds every defect that is planted into the evidence of a good run."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from celeriac.orchestrations.history import (
    CommandEvent,
    EventRaised,
    TaskCompleted,
    TaskScheduled,
    encode_event,
)
from tests.chaos.checker import check
from tests.chaos.checks_work import Finding
from tests.chaos.evidence import Evidence
from tests.chaos.model import case

pytestmark = pytest.mark.timeout(400)  # whichever test comes first makes the run

Change = Callable[[Evidence], None]


@pytest.fixture(scope="module")
def good(short_run: tuple[Path, str]) -> Evidence:
    return Evidence.read(short_run[0])


def findings(good: Evidence, change: Change) -> list[Finding]:
    """What the checker says of the changed evidence."""
    fresh = Evidence(**{f.name: copy.deepcopy(getattr(good, f.name)) for f in dataclasses.fields(good)})
    change(fresh)
    # Nothing that was worked out before the change may be left.
    return check(dataclasses.replace(fresh))


def kinds(good: Evidence, change: Change) -> set[str]:
    return {finding.kind for finding in findings(good, change)}


def pick(evidence: Evidence, name: str, status: str = "") -> str:
    """An instance of this orchestrator that the client started."""
    for id, record in evidence.records.items():
        started = (id.startswith("w") and "parent" not in record) or name == "chaos_message"
        if record["name"] == name and started and status in ("", record["status"]):
            return id
    raise LookupError(name)


def set_field(evidence: Evidence, id: str, **fields: str) -> None:
    evidence.keys[evidence.names.inst(id)][2].update({k: v.encode() for k, v in fields.items()})


def put(evidence: Evidence, key: str, type_: str, value: Any, ttl: int = -1) -> None:
    evidence.keys[f"{evidence.names.hub}:{key}"] = (type_, ttl, value)


def rewrite(evidence: Evidence, id: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Another history."""
    raw = evidence.keys[evidence.names.hist(id)][2]
    raw[:] = [encode_event(event) for event in change(evidence.history(id))]


def test_good_evidence_is_good(good: Evidence) -> None:
    assert findings(good, lambda _: None) == []


# --- work -------------------------------------------------------------------------------------------


def test_an_acknowledged_start_without_an_instance(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        id = pick(evidence, "chaos_fan_out")
        del evidence.keys[evidence.names.inst(id)]

    assert {"lost", "leak"} == kinds(good, change)


def test_an_acknowledged_message_without_an_instance(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        del evidence.keys[evidence.names.inst(pick(evidence, "chaos_message"))]

    assert "lost" in kinds(good, change)


def test_a_message_that_started_two(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        id = pick(evidence, "chaos_message")
        for family in ("inst", "hist"):
            put(evidence, f"{family}:twin", *_moved(evidence, f"{family}:{id}"))

    assert any("started 2 instances" in finding.text for finding in findings(good, change))


def _moved(evidence: Evidence, key: str) -> tuple[str, Any]:
    type_, _, value = evidence.keys[f"{evidence.names.hub}:{key}"]
    return type_, copy.deepcopy(value)


@pytest.mark.parametrize("name", ["chaos_timer", "chaos_forever", "chaos_message"])
def test_an_instance_that_never_ended(good: Evidence, name: str) -> None:
    def change(evidence: Evidence) -> None:
        id = next(id for id, record in evidence.records.items() if record["name"] == name)
        set_field(evidence, id, status="Running")

    assert "stuck" in kinds(good, change)


def test_a_run_that_did_not_come_to_rest(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        evidence.facts = msgspec.structs.replace(evidence.facts, settled=False, waiting=["ready 1"])

    assert [finding[:2] for finding in findings(good, change)] == [("stuck", "fleet")]


def test_a_wrong_result_and_a_wrong_status(good: Evidence) -> None:
    assert "wrong" in kinds(good, lambda e: set_field(e, pick(e, "chaos_sequence"), output="1.5"))
    assert "wrong" in kinds(good, lambda e: set_field(e, pick(e, "chaos_sequence"), status="Failed"))
    assert "wrong" in kinds(good, lambda e: set_field(e, pick(e, "chaos_cancel"), custom='"other"'))


def test_compensation_that_never_ran(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        id = pick(evidence, "chaos_cancel")
        evidence.effects = [
            line for line in evidence.effects if (line["instance"], line["name"]) != (id, "release")
        ]

    assert any("was never released" in finding.text for finding in findings(good, change))


def test_a_purged_instance_that_is_still_there(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        id = next(w.id for n in range(500) if (w := case(evidence.facts.seed, n)).purged)
        assert id not in evidence.records
        other = pick(evidence, case(evidence.facts.seed, int(id[1:])).orchestrator)
        for family in ("inst", "hist"):
            put(evidence, f"{family}:{id}", *_moved(evidence, f"{family}:{other}"))

    assert any("was purged and is still there" in finding.text for finding in findings(good, change))


def test_an_event_taken_twice(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        def twice(events: list[Any]) -> list[Any]:
            raised = next(n for n, event in enumerate(events) if isinstance(event, EventRaised))
            return [*events[: raised + 1], *events[raised:]]

        rewrite(evidence, pick(evidence, "chaos_event"), twice)

    assert "wrong" in kinds(good, change)


def test_what_the_client_was_refused(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        evidence.client.append({"what": "refused", "number": 0, "step": 0, "error": "InstanceNotFoundError"})

    assert "wrong" in kinds(good, change)


def test_an_instance_that_nobody_started(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        id = pick(evidence, "chaos_sequence")
        for family in ("inst", "hist"):
            put(evidence, f"{family}:w-other", *_moved(evidence, f"{family}:{id}"))

    assert "ghost" in kinds(good, change)


def test_a_process_that_ended_by_itself(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        evidence.facts = msgspec.structs.replace(evidence.facts, surprises=["worker-solo ended with 1"])

    assert kinds(good, change) == {"died"}


# --- histories --------------------------------------------------------------------------------------


def test_a_step_with_two_outcomes(good: Evidence) -> None:
    def twice(events: list[Any]) -> list[Any]:
        done = next(event for event in events if isinstance(event, TaskCompleted))
        return [*events[:-1], done, events[-1]]

    assert "two outcomes" in kinds(good, lambda e: rewrite(e, pick(e, "chaos_sequence"), twice))


def test_a_history_that_today_s_code_does_not_repeat(good: Evidence) -> None:
    def other(events: list[CommandEvent]) -> list[Any]:
        return [
            msgspec.structs.replace(event, name="square") if isinstance(event, TaskScheduled) else event
            for event in events
        ]

    assert kinds(good, lambda e: rewrite(e, pick(e, "chaos_sequence"), other)) == {"replay"}


def test_a_history_that_goes_on_after_its_end(good: Evidence) -> None:
    assert "two outcomes" in kinds(
        good, lambda e: rewrite(e, pick(e, "chaos_timer"), lambda events: [*events, events[-1]])
    )


def test_a_result_that_no_activity_gave(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        id = pick(evidence, "chaos_map")
        evidence.effects = [line for line in evidence.effects if line["instance"] != id]

    assert any("which no run of it gave" in finding.text for finding in findings(good, change))


def test_a_payload_that_is_gone(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        execution = evidence.records[pick(evidence, "chaos_map")]["execution"]
        del evidence.keys[evidence.names.pay(execution)]

    assert "lost" in kinds(good, change)


# --- runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "explains"),
    [
        ({}, False),
        ({"kind": "kill", "seconds": 1}, True),
        ({"kind": "kill child", "seconds": 1}, True),
        ({"kind": "kill", "seconds": 1, "pids": [1]}, False),  # another process
        ({"kind": "kill", "seconds": 1, "later": 60}, False),  # too late
        ({"kind": "redis kill", "seconds": 1, "pids": [1], "lapse": 2}, True),
        ({"kind": "redis kill", "seconds": 1, "pids": [1]}, False),  # it forgets nothing
        ({"kind": "kill beat", "seconds": 1, "lapse": 2}, True),
        ({"kind": "kill beat", "seconds": 1}, False),  # another helper began in time
        ({"kind": "pause long", "seconds": 4, "lapse": 2}, True),
        ({"kind": "pause long", "seconds": 4}, False),
        ({"kind": "pause long", "seconds": 4, "lapse": 5.5}, False),  # after the second run had begun
        (
            {"kind": "pause long", "seconds": 4, "pids": [1], "lapse": 2},
            False,
        ),  # of another, so without cause
        ({"kind": "stop", "seconds": 4, "lapse": 2}, False),
        ({"kind": "pause short", "seconds": 0.5}, False),
        ({"kind": "cut all", "seconds": 1}, False),
        ({"kind": "cut all", "seconds": 1, "later": 0.2}, False),  # as a child began it
    ],
)
def test_an_activity_that_ran_twice(good: Evidence, fault: dict[str, Any], explains: bool) -> None:
    def change(evidence: Evidence) -> None:
        id = pick(evidence, "chaos_fan_out")
        lines = [line for line in evidence.effects if line["instance"] == id][:1]
        evidence.effects += [line | {"run": "again", "at": line["at"] + 5} for line in lines]
        evidence.faults.clear()
        evidence.lapses.clear()
        if "lapse" in fault:
            evidence.lapses.append({"pid": lines[0]["parent"], "at": lines[0]["at"] + fault["lapse"]})
        if fault:
            at = lines[0]["at"] + fault.get("later", 1)
            pids = [lines[0]["pid"], lines[0]["parent"]]
            evidence.faults.append({"pids": pids, "from": at, "until": at} | fault)

    found = [finding for finding in findings(good, change) if finding.where == pick(good, "chaos_fan_out")]
    assert [finding.kind for finding in found] == ([] if explains else ["duplicate"])


def test_one_death_explains_one_more_run(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        id = pick(evidence, "chaos_fan_out")
        line = next(line for line in evidence.effects if line["instance"] == id)
        evidence.faults.clear()
        at = line["at"] + 1
        evidence.faults.append({"kind": "kill", "pids": [line["pid"]], "from": at, "until": at})
        for n, later in enumerate((5, 6)):
            again = {"run": f"again {n}", "at": line["at"] + later, "pid": 1, "parent": 1}
            evidence.effects.append(line | again)

    found = [finding for finding in findings(good, change) if finding.where == pick(good, "chaos_fan_out")]
    assert [finding.kind for finding in found] == ["duplicate"]


# --- keys -------------------------------------------------------------------------------------------

LEFT = [
    ("flight:w1234", "hash", {"1": b"queue\nmessage"}),
    ("claims:o1234", "set", [b"w1"]),
    ("trig:t1234", "hash", {"1": b"0"}),
    ("open:0123456789abcdef", "hash", {"0": b"1"}),
    ("pay:0123456789abcdef", "hash", {"pinput": b"=1"}),
    ("inbox:w1", "list", [b"{}"]),
    ("control:w1", "list", [b"{}"]),
    ("hist:gone", "list", [b"{}"]),
    ("dedup:gone", "set", [b"key"]),
    ("idem:w1", "string", b"w1"),  # that never expires
    ("ready", "zset", {"w1": 1.0}),
    ("timers", "zset", {"0:1:w1": 1.0}),
    ("deadlines", "zset", {"c:0:1:1:w1": 1.0}),
    ("parked", "zset", {"0:1:1:w1": 1.0}),
    ("parked:body", "hash", {"0:1:1:w1": b"queue\nmessage"}),
    ("closing", "list", [b"terminate"]),
    ("aside", "list", [b"reason"]),
    ("again:chaos-messages", "list", [b"1"]),
    ("queue:celeriac", "list", [b"message"]),
    ("beats", "zset", {"o1234": 1.0}),
    ("procs", "hash", {"o1234": b'{"pid": 1}'}),
    ("idx:status:Running", "zset", {"w1": 1.0}),
    ("idx:tag:a=b", "zset", {"w1": 1.0}),
    ("wake", "list", [b"1"] * 65),
    ("other", "string", b"what is this"),
    ("served", "list", [b"of another type"]),
]


@pytest.mark.parametrize(("key", "type_", "value"), LEFT, ids=[each[0] for each in LEFT])
def test_a_key_that_should_not_be_there(good: Evidence, key: str, type_: str, value: Any) -> None:
    assert "leak" in kinds(good, lambda e: put(e, key, type_, value))


def test_a_record_that_is_still_claimed_or_missing_in_an_index(good: Evidence) -> None:
    assert kinds(good, lambda e: set_field(e, pick(e, "chaos_timer"), claim="o1.2", stage="2")) == {"leak"}
    assert kinds(good, lambda e: e.zset("idx_id").popitem() and None) == {"leak"}


def test_the_incarnation_of_a_dead_process(good: Evidence) -> None:
    def change(evidence: Evidence) -> None:
        name, info = next(iter(evidence.value(evidence.names.procs, {}).items()))
        evidence.value(evidence.names.procs, {})[name] = json.dumps(json.loads(info) | {"pid": 1}).encode()

    assert kinds(good, change) == {"leak"}
