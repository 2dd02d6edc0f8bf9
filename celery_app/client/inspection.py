"""The operations behind `progress`, `workers` and `served`: looking on, changing nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from celeriac.orchestrations.errors import InstanceNotFoundError, InvalidArgumentError
from celeriac.orchestrations.history import GroupScheduled, Part, TaskScheduled

from ..sealing import FREE, PREFIX, Seal
from ..store import Keys, views
from ..store import progress as open_steps
from ..store.records import Progress
from .driving import Operation, ask
from .progress import (
    ActivityProgress,
    GroupProgress,
    InstanceProgress,
    ProcessInfo,
    Served,
    StepState,
    TimerProgress,
)
from .state import OrchestrationState, moment

Asked = TaskScheduled | GroupScheduled
Read = Callable[[str], Operation[OrchestrationState]]

ELSEWHERE = ("@", PREFIX)  # parts that are put aside, or sealed without a key here
_parts = msgspec.json.Decoder(list[Part])

CHUNK = 500  # history events read at once, newest first
_KINDS = {"o": "orchestrator", "w": "worker", "t": "listener"}
_STATES = {"queued": StepState.QUEUED, "running": StepState.RUNNING, "parked": StepState.RETRYING}


class Inspection:
    """Operations that look on. `read` is the operation that gets one instance."""

    def __init__(self, keys: Keys, read: Read, seal: Seal) -> None:
        self._keys, self._read, self._seal = keys, read, seal

    def progress(self, instance_id: str, depth: int) -> Operation[InstanceProgress]:
        """See Client.progress."""
        if depth < 0:
            raise InvalidArgumentError(f"depth is 0 or more, not {depth}")
        state = yield from self._read(instance_id)
        if state.is_final:
            return InstanceProgress(state=state)
        steps = yield from ask(open_steps.progress(self._keys, instance_id))
        asked = yield from self._asked(instance_id, state.history_length, steps)
        children: list[InstanceProgress] = []
        for step in steps:
            if step.kind == "child" and depth:
                try:
                    children.append((yield from self.progress(step.child, depth - 1)))
                except InstanceNotFoundError:
                    continue  # purged between the two looks
        return InstanceProgress(
            state=state,
            activities=tuple(
                _activity(s, asked, self._seal) for s in steps if s.kind == "activity" and _shown(s)
            ),
            groups=tuple(_group(s, asked) for s in steps if s.kind == "group" and s.state == "open"),
            timers=tuple(TimerProgress(seq=s.seq, due=moment(s.due)) for s in steps if s.kind == "timer"),
            children=tuple(children),
        )

    def _asked(self, instance_id: str, length: int, steps: Iterable[Progress]) -> Operation[dict[int, Asked]]:
        """What asked for the open steps: read backwards, as what is open was mostly asked for late."""
        wanted = {s.group if s.group >= 0 else s.seq for s in steps if s.kind in ("activity", "group")}
        asked: dict[int, Asked] = {}
        stop = length
        while stop > 0 and not wanted <= asked.keys():
            start = max(0, stop - CHUNK)
            chunk = yield from ask(views.history(self._keys, instance_id, start, stop - 1))
            for event in map(self._seal.decode, chunk):
                if isinstance(event, TaskScheduled | GroupScheduled):
                    asked[event.seq] = event
            stop = start
        return asked

    def workers(self) -> Operation[Sequence[ProcessInfo]]:
        """See Client.workers."""
        processes = yield from ask(views.processes(self._keys))
        return tuple(
            ProcessInfo(
                incarnation=process.incarnation,
                kind=_KINDS.get(process.incarnation[:1], "unknown"),
                lapses_at=moment(process.lapses_at),
                info=json.loads(process.info or b"{}"),
            )
            for process in processes
        )

    def served(self) -> Operation[Served]:
        """See Client.served."""
        found: Mapping[str, Sequence[str]] = yield from ask(views.served(self._keys))
        return Served(
            orchestrators={n[2:]: tuple(v) for n, v in found.items() if n.startswith("o ")},
            activities={n[2:]: tuple(v) for n, v in found.items() if n.startswith("a ")},
        )


def _name(event: Asked | None) -> str:
    """What the activity, or the parts of a group, is called; of mixed ones, if the event itself says so."""
    if (
        event is None
        or event.name
        or not isinstance(event, GroupScheduled)
        or event.parts.startswith(ELSEWHERE)
    ):
        return event.name if event else ""
    names = dict.fromkeys(part.name for part in _parts.decode(event.parts))
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")


def _shown(step: Progress) -> bool:
    """Every single activity; of a group only the parts that run or wait for a retry."""
    return step.group < 0 or step.state != "queued"


def _tags(event: Asked | None, seq: int) -> Mapping[str, str]:
    """The tags of a step; of a part of a large group, only when all its parts have the same."""
    if event is None:
        return {}
    if not isinstance(event, GroupScheduled):
        return event.options.tags
    if all(options.tags == event.options[0].tags for options in event.options):
        return event.options[0].tags
    if event.parts.startswith(ELSEWHERE):
        return {}
    return event.options[_parts.decode(event.parts)[seq - event.seq].options].tags


def _activity(step: Progress, asked: Mapping[int, Asked], seal: Seal) -> ActivityProgress:
    note = seal.clear(step.note)
    event = asked.get(step.group if step.group >= 0 else step.seq)
    return ActivityProgress(
        seq=step.seq,
        name=_name(event),
        tags=_tags(event, step.seq),
        progress=FREE if note.startswith(PREFIX) else json.loads(note) if note else None,
        attempt=step.attempt,
        state=_STATES.get(step.state, StepState.QUEUED),
        worker=step.worker,
        since=moment(step.since) if step.since else None,
        retry_at=moment(step.due) if step.due else None,
        failures=tuple(map(seal.opened, step.failures)),
    )


def _group(step: Progress, asked: Mapping[int, Asked]) -> GroupProgress:
    return GroupProgress(
        seq=step.seq, name=_name(asked.get(step.seq)), size=step.size, done=step.done, failed=step.failed
    )
