"""Reads a history with all that it refers to: what `testing.replay_history` replays in a user's own tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from celeriac.orchestrations.history import (
    PAYLOAD_FIELDS,
    AnyEvent,
    ExecutionStarted,
    GroupCompleted,
    GroupScheduled,
    PartOutcome,
)
from celeriac.orchestrations.recording import Recording

from ..orchestrator.payloads import decode_parts, fields_of, join_chunks
from ..sealing import Seal
from ..store import payloads
from ..store.keys import Keys
from .driving import Operation, ask

CHUNK = 1000  # fields in one read


def record(keys: Keys, events: Sequence[AnyEvent], seal: Seal) -> Operation[Recording]:
    """The recording of a run that has these events; GoneError when it was replaced meanwhile."""
    if not events or not isinstance(events[0], ExecutionStarted):
        return Recording(list(events))
    execution = events[0].execution
    scheduled = {e.seq: e for e in events if isinstance(e, GroupScheduled)}
    groups: dict[int, list[PartOutcome]] = {}
    for event in events:
        if isinstance(event, GroupCompleted):
            found = yield from _outcomes(keys, execution, event.seq, scheduled[event.seq].size)
            groups[event.seq] = list(map(seal.opened, found))
    texts: dict[str, str] = {}
    results = [outcome.result for outcomes in groups.values() for outcome in outcomes]
    yield from _read(
        keys,
        execution,
        [*(getattr(e, n, None) for e in events for n in PAYLOAD_FIELDS), *results],
        texts,
        seal,
    )
    calls = [
        part.input
        for group in scheduled.values()
        for part in decode_parts(texts.get(group.parts, group.parts))
    ]
    yield from _read(keys, execution, calls, texts, seal)
    return Recording(list(events), texts, groups)


def _outcomes(keys: Keys, execution: str, seq: int, size: int) -> Operation[list[PartOutcome]]:
    found: list[PartOutcome] = []
    for start in range(0, size, CHUNK):
        stop = min(size, start + CHUNK)
        found += yield from ask(payloads.group_outcomes(keys, execution, seq, start, stop))
    return found


def _read(
    keys: Keys, execution: str, texts: Iterable[str | None], into: dict[str, str], seal: Seal
) -> Operation[None]:
    """Add the texts that these refer to, by reference."""
    refs = dict.fromkeys(text for text in texts if text is not None and text.startswith("@"))
    for ref in refs:
        fields = fields_of(ref)
        blobs: list[bytes] = []
        for start in range(0, len(fields), CHUNK):
            blobs += yield from ask(payloads.fetch(keys, execution, fields[start : start + CHUNK]))
        into[ref] = join_chunks([seal.unpack(blob) for blob in blobs])
