"""Payloads: what the core reads beside the history, and how the engine puts big texts aside.

Reading. `RunPayloads` answers the core's `Payloads` protocol for one run. The worker finds out with `wants`
what a turn will ask for and gives it with `give` before author code runs. A large value that the author
only looks at in a later turn is no longer there then (memory stays bounded by a turn); it is fetched again
through `missing`.

Writing. `Aside` decides for each text of a turn whether it stays in the event or is staged under the
execution and referred to as `@field`. The parts of a wide group are staged as several fields of
`PARTS_CHUNK` parts each, so that a window is emitted without reading all of them: the reference `@p7c*12`
stands for the fields `p7c.0` ... `p7c.11`. `staging` cuts what is staged into calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from celeriac.orchestrations.errors import PayloadTooLargeError
from celeriac.orchestrations.history import (
    PAYLOAD_FIELDS,
    AnyEvent,
    GroupCompleted,
    GroupScheduled,
    Part,
    PartOutcome,
    TaskCancelled,
)

from ..sealing import Seal
from ..store import Call, Keys
from ..store.payloads import stage
from ..store.records import Commit

PARTS_CHUNK = 1000
WARN_PAYLOAD = 256 * 1024  # bytes from which the log says so

logger = logging.getLogger("celeriac.orchestrator")
STAGED_AT_ONCE = 2 * 2**20  # bytes of payloads in one call

_parts_decoder = msgspec.json.Decoder(list[Part])
_encoder = msgspec.json.Encoder()

Missing = Callable[[str, Sequence[str]], list[str]]  # (execution, fields) -> texts
MissingGroup = Callable[[str, int, int], list[PartOutcome]]  # (execution, group seq, size) -> outcomes


class RunPayloads:
    """The payloads of one run, as the core asks for them."""

    def __init__(self, run: str, missing: Missing, missing_group: MissingGroup) -> None:
        self._run, self._missing, self._missing_group = run, missing, missing_group
        self._texts: dict[str, str] = {}
        self._groups: dict[int, list[PartOutcome]] = {}
        self._scheduled: dict[int, GroupScheduled] = {}
        self.cancelled: set[int] = set()  # steps that the author cancelled

    def text(self, ref: str) -> str:
        """The JSON text that `ref` stands for; a text that is no reference is its own."""
        if not ref.startswith("@"):
            return ref
        fields = fields_of(ref)
        absent = [field for field in fields if field not in self._texts]
        if absent:
            self.give(dict(zip(absent, self._missing(self._run, absent), strict=True)))
        return join_chunks([self._texts[field] for field in fields])

    def group(self, seq: int) -> Sequence[PartOutcome]:
        """How the parts of the group ended, in index order."""
        if seq not in self._groups:
            self._groups[seq] = self._missing_group(self._run, seq, self._scheduled[seq].size)
        return self._groups[seq]

    def note(self, events: Iterable[AnyEvent]) -> None:
        """Remember what later windows need to know of these recorded events."""
        for event in events:
            if type(event) is GroupScheduled:
                self._scheduled[event.seq] = event
            elif type(event) is TaskCancelled:
                self.cancelled.add(event.seq)

    def scheduled(self, seq: int) -> GroupScheduled | None:
        """The group that `note` has seen under this seq."""
        return self._scheduled.get(seq)

    def give(self, texts: dict[str, str]) -> None:
        """Texts that the coming turn will ask for."""
        self._texts.update(texts)

    def give_group(self, seq: int, outcomes: list[PartOutcome]) -> None:
        """The outcomes of a group whose completion the coming turn applies."""
        self._groups[seq] = outcomes

    def forget(self) -> None:
        """The turn is over: keep no payload."""
        self._texts.clear()
        self._groups.clear()


def fields_of(ref: str) -> list[str]:
    """The fields a reference stands for: one, or the chunks of a group's parts."""
    field, star, count = ref[1:].partition("*")
    return [f"{field}.{i}" for i in range(int(count))] if star else [field]


def join_chunks(texts: list[str]) -> str:
    """One JSON list from the chunks of a list; a single text is returned as it is."""
    if len(texts) == 1:
        return texts[0]
    return "[" + ",".join(text[1:-1] for text in texts) + "]"


def wants(events: Iterable[AnyEvent]) -> tuple[list[str], list[int]]:
    """The fields and the groups (by seq) that applying these events may ask for."""
    fields: list[str] = []
    groups: list[int] = []
    for event in events:
        if type(event) is GroupCompleted:
            groups.append(event.seq)
            continue
        for name in PAYLOAD_FIELDS:
            text = getattr(event, name, None)
            if isinstance(text, str) and text.startswith("@"):
                fields += fields_of(text)
    return fields, groups


def wanted_by_parts(outcomes: Iterable[PartOutcome]) -> list[str]:
    """The fields that the results of a group's parts refer to."""
    return [o.result[1:] for o in outcomes if o.result is not None and o.result.startswith("@")]


def decode_parts(text: str) -> list[Part]:
    """The parts of a group, or of one chunk of them."""
    return _parts_decoder.decode(text)


class Aside:
    """The texts of one turn that are put aside: `staged`, as blobs by the field each will have."""

    def __init__(self, over: int, limit: int, seal: Seal) -> None:
        self._over, self._limit, self._seal = over, limit, seal
        self.staged: dict[str, bytes] = {}

    def put(self, text: str | None, field: str, what: str, over: int = 0) -> str | None:
        """`text` itself when it is small (`over` bytes, else the limit of this turn), or a reference to
        where it is staged. Raises PayloadTooLargeError, naming `what`, over the hard limit.
        """
        over = over or self._over
        if text is None or text.startswith("@") or len(text) <= min(over, self._limit) // 4:
            return text  # a character is at most 4 bytes
        size = len(text) if text.isascii() else len(text.encode())
        if size > self._limit:
            raise PayloadTooLargeError(
                f"{what} is {size:,} bytes as JSON; the limit is {self._limit:,}. "
                "Keep the data elsewhere and pass a reference to it, or raise CELERIAC_MAX_PAYLOAD."
            )
        if size > WARN_PAYLOAD:
            logger.warning("%s is %d bytes; keep large data elsewhere and pass a reference", what, size)
        if size <= over:
            return text
        self.staged[field] = self._seal.pack(text)
        return f"@{field}"

    def put_parts(self, parts: Sequence[Part], field: str) -> str:
        """The parts of a group: in place when they are few, else staged in chunks."""
        text = _encoder.encode(parts).decode()
        if len(text) <= self._over // 4 and len(parts) <= PARTS_CHUNK:
            return text
        starts = range(0, len(parts), PARTS_CHUNK)
        for k, start in enumerate(starts):
            chunk = _encoder.encode(parts[start : start + PARTS_CHUNK]).decode()
            self.staged[f"{field}.{k}"] = self._seal.pack(chunk)
        return f"@{field}*{len(starts)}"


def staging(keys: Keys, commit: Commit, blobs: dict[str, bytes]) -> list[Call[int]]:
    """The calls, to be sent in this order, that put these blobs aside before `commit`."""
    found = list(_portions(blobs))
    return [
        stage(keys, commit.instance, commit.execution, commit.claim, fields, part, last=part == len(found))
        for part, fields in enumerate(found, 1)
    ]


def _portions(blobs: dict[str, bytes]) -> Iterator[list[tuple[str, bytes]]]:
    """These blobs, in portions of about STAGED_AT_ONCE bytes."""
    portion: list[tuple[str, bytes]] = []
    size = 0
    for field, blob in blobs.items():
        if portion and size + len(blob) > STAGED_AT_ONCE:
            yield portion
            portion, size = [], 0
        portion.append((field, blob))
        size += len(blob)
    if portion:
        yield portion
