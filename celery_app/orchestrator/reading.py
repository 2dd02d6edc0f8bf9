"""What a batch of turns needs to read, in as few round trips as can be.

`histories` reads whole histories; `prepare` reads what the turns will ask for: payloads that the new events
refer to, outcomes of finished groups, and for groups that want their next window where they stand and the
parts that come next. Wide things come in chunks of a thousand. Reads of one instance that fail are answered
for that instance alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celeriac.orchestrations.errors import SealedPayloadError
from celeriac.orchestrations.history import AnyEvent, PartOutcome

from ..sealing import Seal
from ..store import Call, Store, command, payloads
from .payloads import PARTS_CHUNK, RunPayloads, decode_parts, fields_of, join_chunks, wanted_by_parts, wants
from .windows import Window

OUTCOMES_CHUNK = 1000


@dataclasses.dataclass(slots=True)
class Need:
    """What one turn will ask for, and what was found. `error` is set when a read failed."""

    execution: str
    payloads: RunPayloads
    events: Sequence[AnyEvent]
    window_seqs: Sequence[int] = ()
    windows: dict[int, Window] = dataclasses.field(default_factory=dict)
    error: Exception | None = None


Sink = Callable[[Any], None]


class Reader:
    """Reads through one store."""

    def __init__(self, store: Store, seal: Seal) -> None:
        self._store, self._keys, self._seal = store, store.keys, seal

    def histories(self, instances: Iterable[str]) -> list[tuple[list[AnyEvent], int] | Exception]:
        """The whole history of each instance, and how many bytes it has."""
        calls = [command("LRANGE", self._keys.hist(instance), 0, -1) for instance in instances]
        return [self._decoded(reply) for reply in self._store.run_all(calls)]

    def _decoded(self, reply: Any) -> tuple[list[AnyEvent], int] | Exception:
        if isinstance(reply, Exception):
            return reply
        try:
            return [self._seal.decode(item) for item in reply], sum(map(len, reply))
        except (ValueError, SealedPayloadError) as error:  # msgspec's: an event kind of a newer release, say
            return error

    def texts(self, execution: str, fields: Sequence[str]) -> list[str]:
        """Payloads of a run, at once; a missing one is an error."""
        blobs = self._store.run(payloads.fetch(self._keys, execution, fields))
        return [self._seal.unpack(blob) for blob in blobs]

    def outcomes(self, execution: str, seq: int, size: int) -> list[PartOutcome]:
        """How all parts of a finished group ended, at once."""
        found: list[PartOutcome] = []
        for call in self._outcome_calls(execution, seq, size):
            found += map(self._seal.opened, self._store.run(call))
        return found

    def prepare(self, needs: Sequence[Need]) -> None:
        """Read what these turns will ask for into their payloads and windows."""
        batch = _Batch(self._store)
        for need in needs:
            fields, groups = wants(need.events)
            self._want_texts(batch, need, fields)
            for seq in groups:
                self._want_group(batch, need, seq)
            for seq in need.window_seqs:
                self._want_window(batch, need, seq)
        while batch:
            batch = batch.run()

    def _outcome_calls(self, execution: str, seq: int, size: int) -> list[Call[list[PartOutcome]]]:
        return [
            payloads.group_outcomes(self._keys, execution, seq, start, min(size, start + OUTCOMES_CHUNK))
            for start in range(0, size, OUTCOMES_CHUNK)
        ]

    def _want_texts(self, batch: _Batch, need: Need, fields: Sequence[str]) -> None:
        for start in range(0, len(fields), PARTS_CHUNK):
            some = list(fields[start : start + PARTS_CHUNK])
            batch.add(
                need,
                payloads.fetch(self._keys, need.execution, some),
                lambda blobs, some=some: need.payloads.give(
                    dict(zip(some, map(self._seal.unpack, blobs), strict=True))
                ),
            )

    def _want_group(self, batch: _Batch, need: Need, seq: int) -> None:
        scheduled = need.payloads.scheduled(seq)
        if scheduled is None:
            return  # a completion of nothing that this history knows: the core decides what to make of it
        outcomes: list[PartOutcome] = []
        need.payloads.give_group(seq, outcomes)

        def take(some: list[PartOutcome]) -> None:
            outcomes.extend(map(self._seal.opened, some))
            self._want_texts(batch.next, need, wanted_by_parts(some))

        for call in self._outcome_calls(need.execution, seq, scheduled.size):
            batch.add(need, call, take)

    def _want_window(self, batch: _Batch, need: Need, seq: int) -> None:
        """Where the group stands; then the parts that come next."""
        scheduled = need.payloads.scheduled(seq)
        if scheduled is None:
            return
        names = [f"g{seq}", f"g{seq}c", f"g{seq}i", f"g{seq}w"]

        def take(values: list[bytes | None]) -> None:
            if None in values:
                return  # the group is over, or of an earlier run
            size, cursor, in_flight, width = (int(value or 0) for value in values)
            stop = min(size, cursor + max(0, width - in_flight))
            first, window = cursor // PARTS_CHUNK, Window(seq, size, cursor, (), scheduled.options)
            fields = fields_of(scheduled.parts) if scheduled.parts.startswith("@") else []
            if not fields:
                need.windows[seq] = dataclasses.replace(
                    window, parts=decode_parts(scheduled.parts)[cursor:stop]
                )
                return
            if stop <= cursor:
                need.windows[seq] = window
                return
            wanted = fields[first : (stop - 1) // PARTS_CHUNK + 1]

            def cut(blobs: list[bytes]) -> None:
                skip = first * PARTS_CHUNK
                parts = decode_parts(join_chunks([self._seal.unpack(blob) for blob in blobs]))[
                    cursor - skip : stop - skip
                ]
                need.windows[seq] = dataclasses.replace(window, parts=parts)

            batch.next.add(need, payloads.fetch(self._keys, need.execution, wanted), cut)

        batch.add(need, command("HMGET", self._keys.open(need.execution), *names), take)


class _Batch:
    """Calls of one pipeline and who takes the replies; what those ask for goes into the `next` one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: list[tuple[Need, Call[Any], Sink]] = []
        self._next: _Batch | None = None

    def __bool__(self) -> bool:
        return bool(self._asked)

    @property
    def next(self) -> _Batch:
        """The pipeline after this one."""
        if self._next is None:
            self._next = _Batch(self._store)
        return self._next

    def add(self, need: Need, call: Call[Any], take: Sink) -> None:
        self._asked.append((need, call, take))

    def run(self) -> _Batch:
        """Send it, hand out the replies, return the next one."""
        replies = self._store.run_all([call for _, call, _ in self._asked])
        for (need, _, take), reply in zip(self._asked, replies, strict=True):
            if isinstance(reply, Exception):
                need.error = need.error or reply
            elif need.error is None:
                try:
                    take(reply)
                except SealedPayloadError as error:
                    need.error = error
        return self.next
