"""Nothing lost, nothing stuck, nothing wrong: what was asked for beside what is there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from celeriac.orchestrations import codec
from celeriac.orchestrations.history import EventRaised, ExecutionStarted

from .evidence import Evidence
from .model import Case, case

FINAL = ("Completed", "Failed", "Terminated", "Cancelled")


class Finding(NamedTuple):
    """One thing that must not be."""

    kind: str  # lost, stuck, wrong, ghost, two outcomes, replay, duplicate, leak, died
    where: str  # an instance, a key, a process
    text: str


def check_work(evidence: Evidence) -> Iterator[Finding]:
    """Every piece of work that the client began."""
    acknowledged: dict[int, set[int]] = defaultdict(set)
    tried: dict[int, set[int]] = defaultdict(set)
    for line in evidence.client:
        number = line["number"]
        if line["what"] == "refused":
            yield Finding("wrong", f"w{number}", f"step {line['step']} was refused: {line['error']}")
        elif line["what"] == "ack":
            acknowledged[number].add(line["step"])
        elif line["what"] == "try":
            tried[number].add(line["step"])
    messages = _messages(evidence)
    expected: set[str] = set()
    for number in sorted({*tried, *acknowledged}):
        work = case(evidence.facts.seed, number)
        if work.is_message:
            ids = messages.pop(number, [])
            yield from _check_message(work, ids, -1 in acknowledged[number])
        else:
            ids = [work.id] if work.id in evidence.records else []
            if work.purged and len(work.actions) - 1 in tried[number]:
                yield from _check_purged(evidence, work, len(work.actions) - 1 in acknowledged[number])
            elif not ids and acknowledged[number]:
                yield Finding("lost", work.id, "its start was acknowledged, and there is no such instance")
        expected.update(ids)
        for id in ids:
            yield from _check_instance(evidence, work, id)
    purged = {work.id for number in tried if (work := case(evidence.facts.seed, number)).cuts_children_off}
    yield from _check_others(evidence, expected, purged)


def _messages(evidence: Evidence) -> dict[int, list[str]]:
    """The instances that messages became, by the number in the message."""
    found: dict[int, list[str]] = defaultdict(list)
    for id, record in evidence.records.items():
        if record["name"] == "chaos_message":
            started = next((e for e in evidence.history(id) if isinstance(e, ExecutionStarted)), None)
            given = codec.decode(started.input) if started else {"number": -1}
            found[given["number"]].append(id)
    return found


def _check_message(work: Case, ids: list[str], acknowledged: bool) -> Iterator[Finding]:
    if not ids and acknowledged:
        yield Finding("lost", f"message {work.number}", "was acknowledged, and started no instance")
    if len(ids) > 1:
        yield Finding("wrong", f"message {work.number}", f"started {len(ids)} instances: {', '.join(ids)}")


def _check_purged(evidence: Evidence, work: Case, acknowledged: bool) -> Iterator[Finding]:
    """What was removed is gone, with its children."""
    if acknowledged and work.id in evidence.records:
        yield Finding("leak", work.id, "was purged and is still there")


def _check_instance(evidence: Evidence, work: Case, id: str) -> Iterator[Finding]:
    record = evidence.records[id]
    if record["status"] not in FINAL:
        yield Finding("stuck", id, f"{work.orchestrator} is {record['status']}: {_shown(record)}")
        return
    if record["name"] != work.orchestrator:
        yield Finding("wrong", id, f"is a {record['name']}, not a {work.orchestrator}")
    if record["status"] != work.status and record["status"] != work.early:
        failure = record.get("failure", "")[:300]
        yield Finding("wrong", id, f"{work.orchestrator} is {record['status']}, not {work.status}: {failure}")
        return
    if record["status"] == "Terminated":
        return
    output = codec.decode(evidence.text(record["execution"], record.get("output")))
    if output != work.output:
        yield Finding("wrong", id, f"{work.orchestrator} gave {_short(output)}, not {_short(work.output)}")
    if work.status == "Cancelled" and codec.decode(record.get("custom")) != "undone":
        yield Finding("wrong", id, "was cancelled, and its code did not undo what it had done")
    raised = sum(action.verb == "event" for action in work.actions)
    if work.orchestrator == "chaos_event":
        seen = sum(isinstance(event, EventRaised) for event in evidence.history(id))
        if seen != raised:
            yield Finding("wrong", id, f"{raised} events were raised, {seen} are in its history")
    released = Counter(
        run["value"]
        for runs in evidence.runs.values()
        for run in runs
        if run["instance"] == id and run["name"] == "release" and run["ended"] == "done"
    ) if work.undone else Counter()  # fmt: skip
    for item in work.undone:
        if not released[-item]:
            yield Finding("wrong", id, f"item {item} was never released")


def _check_others(evidence: Evidence, expected: set[str], purged: set[str]) -> Iterator[Finding]:
    """Children, and whatever nobody asked for.

    A child that still runs when its parent is purged stays: the parent's end is still on its way to it.
    """
    for id, record in evidence.records.items():
        if id in expected:
            continue
        parent = record.get("parent", "")
        if parent not in evidence.records and parent not in purged:
            yield Finding("ghost", id, f"a {record['name']} that nobody started")
        elif record["status"] not in FINAL:
            yield Finding("stuck", id, f"child of {record['parent']}: {_shown(record)}")


def _shown(record: dict[str, str]) -> str:
    return ", ".join(f"{k}={v[:60]}" for k, v in sorted(record.items()) if v)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}... ({len(text)} characters)"
