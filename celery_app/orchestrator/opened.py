"""What opened a step, read back from the history: its command, and the step that an attempt's message is
made from.

For what is rare, passed deadlines and lost messages, so nothing is kept for it. A history is read from its
end, as most of what is open was opened lately.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from celeriac.orchestrations.errors import SealedPayloadError
from celeriac.orchestrations.history import AnyEvent, GroupScheduled, TaskScheduled, TimerCreated

from ..messages import GroupRef, Notes, Step, StepHeader, TaskId
from ..sealing import Seal
from ..store import Store, command, steps
from .payloads import PARTS_CHUNK, decode_parts, fields_of
from .reading import Reader

logger = logging.getLogger("celeriac.orchestrator")

CHUNK = 500  # events read at once
Opener = TaskScheduled | GroupScheduled | TimerCreated


class OpenedSteps:
    """Reads through one store."""

    def __init__(self, store: Store, seal: Seal) -> None:
        self._store, self._reader, self._seal = store, Reader(store, seal), seal

    def openers(self, wanted: Mapping[str, Iterable[int]]) -> dict[tuple[str, int], Opener]:
        """The events that opened these steps (seqs by instance). Those that no history has are left out."""
        missing = {instance: set(seqs) for instance, seqs in wanted.items()}
        found: dict[tuple[str, int], Opener] = {}
        last = -1
        while missing:
            names = list(missing)
            calls = [command("LRANGE", self._store.keys.hist(name), last - CHUNK + 1, last) for name in names]
            for name, items in zip(names, self._store.run_all(calls), strict=True):
                if isinstance(items, Exception):
                    logger.error("the history of %s cannot be read: %s", name, items)
                    items = []
                for event in self._read(name, items):
                    if isinstance(event, TaskScheduled | GroupScheduled | TimerCreated):
                        opened = [seq for seq in missing[name] if _is_opened_by(event, seq)]
                        found |= {(name, seq): event for seq in opened}
                        missing[name].difference_update(opened)
                if not missing[name] or len(items) < CHUNK:
                    del missing[name]
            last -= CHUNK
        return found

    def _read(self, name: str, items: Iterable[bytes]) -> list[AnyEvent]:
        try:
            return [self._seal.decode(item) for item in items]
        except SealedPayloadError as error:
            logger.error("the history of %s cannot be read: %s", name, error)
            return []

    def step(self, task: TaskId, opener: Opener | None, lost: int) -> Step | None:
        """The step of that attempt, under which `lost` processes died in a row; None if what opened it is not
        known, or no activity.
        """
        if not isinstance(opener, TaskScheduled | GroupScheduled):
            return None
        kept = self._store.run(steps.kept_notes(self._store.keys, task.execution, task.seq))
        notes = Notes.of_kept(kept, lost)
        if isinstance(opener, TaskScheduled):
            return Step(task, opener.name, opener.input, StepHeader(opener.options, opener.at, 0, notes))
        return self._part(task, opener, notes)

    def _part(self, task: TaskId, group: GroupScheduled, notes: Notes) -> Step:
        index = task.seq - group.seq
        if group.parts.startswith("@"):
            field = fields_of(group.parts)[index // PARTS_CHUNK]
            part = decode_parts(self._reader.texts(task.execution, [field])[0])[index % PARTS_CHUNK]
        else:
            part = decode_parts(group.parts)[index]
        header = StepHeader(group.options[part.options], group.at, group.size, notes)
        reference = GroupRef(f"{task.execution}:{group.seq}", index, group.size)
        return Step(task, part.name, part.input, header, reference)


def _is_opened_by(event: Opener, seq: int) -> bool:
    return event.seq <= seq < event.seq + (event.size if isinstance(event, GroupScheduled) else 1)
