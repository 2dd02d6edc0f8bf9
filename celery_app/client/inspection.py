"""The operations behind `progress`, `workers` and `served`: looking on, changing nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from celeriac.orchestrations.errors import InstanceNotFoundError, InvalidArgumentError
from celeriac.orchestrations.history import GroupScheduled, Part, TaskScheduled, decode_event

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

Read = Callable[[str], Operation[OrchestrationState]]

_parts = msgspec.json.Decoder(list[Part])

CHUNK = 500  # history events read at once, newest first
_KINDS = {"o": "orchestrator", "w": "worker", "t": "listener"}
_STATES = {"queued": StepState.QUEUED, "running": StepState.RUNNING, "parked": StepState.RETRYING}


class Inspection:
    """Operations that look on. `read` is the operation that gets one instance."""

    def __init__(self, keys: Keys, read: Read) -> None:
        self._keys, self._read = keys, read

    def progress(self, instance_id: str, depth: int) -> Operation[InstanceProgress]:
        """See Client.progress."""
        if depth < 0:
            raise InvalidArgumentError(f"depth is 0 or more, not {depth}")
        state = yield from self._read(instance_id)
        if state.is_final:
            return InstanceProgress(state=state)
        steps = yield from ask(open_steps.progress(self._keys, instance_id))
        names = yield from self._names(instance_id, state.history_length, steps)
        children: list[InstanceProgress] = []
        for step in steps:
            if step.kind == "child" and depth:
                try:
                    children.append((yield from self.progress(step.child, depth - 1)))
                except InstanceNotFoundError:
                    continue  # purged between the two looks
        return InstanceProgress(
            state=state,
            activities=tuple(_activity(s, names) for s in steps if s.kind == "activity" and _shown(s)),
            groups=tuple(_group(s, names) for s in steps if s.kind == "group" and s.state == "open"),
            timers=tuple(TimerProgress(seq=s.seq, due=moment(s.due)) for s in steps if s.kind == "timer"),
            children=tuple(children),
        )

    def _names(self, instance_id: str, length: int, steps: Iterable[Progress]) -> Operation[dict[int, str]]:
        """What the open steps are called: read backwards, since what is open was mostly asked for late."""
        wanted = {s.group if s.group >= 0 else s.seq for s in steps if s.kind in ("activity", "group")}
        names: dict[int, str] = {}
        stop = length
        while stop > 0 and not wanted <= names.keys():
            start = max(0, stop - CHUNK)
            chunk = yield from ask(views.history(self._keys, instance_id, start, stop - 1))
            for event in map(decode_event, chunk):
                if isinstance(event, TaskScheduled | GroupScheduled):
                    names[event.seq] = event.name or _names_of_parts(event)
            stop = start
        return names

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


def _names_of_parts(event: TaskScheduled | GroupScheduled) -> str:
    """What the parts of a mixed group are called, when that is short enough to be in its event."""
    if not isinstance(event, GroupScheduled) or event.parts.startswith("@"):
        return ""
    names = dict.fromkeys(part.name for part in _parts.decode(event.parts))
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")


def _shown(step: Progress) -> bool:
    """Every single activity; of a group only the parts that run or wait for a retry."""
    return step.group < 0 or step.state != "queued"


def _activity(step: Progress, names: Mapping[int, str]) -> ActivityProgress:
    return ActivityProgress(
        seq=step.seq,
        name=names.get(step.group if step.group >= 0 else step.seq, ""),
        attempt=step.attempt,
        state=_STATES.get(step.state, StepState.QUEUED),
        worker=step.worker,
        since=moment(step.since) if step.since else None,
        retry_at=moment(step.due) if step.due else None,
        failures=step.failures,
    )


def _group(step: Progress, names: Mapping[int, str]) -> GroupProgress:
    return GroupProgress(
        seq=step.seq, name=names.get(step.seq, ""), size=step.size, done=step.done, failed=step.failed
    )
