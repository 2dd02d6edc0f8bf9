"""What sends activity messages out: the run they belong to, the world they are made in, the windows of
groups.

Shared by the reader, which finds out what the next window of a group is, and by the translation of turns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence, Set

from celeriac.orchestrations.history import ActivityOptions, ExecutionStarted, Part

from ..messages import GroupRef, TaskId
from ..retrying import MessageMaker
from ..sealing import PLAIN, Seal
from ..settings import Settings
from ..store.records import Deadline, GroupEmit, OpenedStep


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What translation needs to know beside the turn."""

    emitter: MessageMaker
    settings: Settings
    knows: Callable[[str], bool]  # is an activity of this name served by anyone?
    seal: Seal = PLAIN


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """The claimed run a turn belongs to."""

    instance: str
    execution: str
    claim: str
    base: int  # history length before the turn
    started: ExecutionStarted
    parent_seq: int
    version: str  # to pin with this commit; empty: as it is
    now: int  # milliseconds


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Some parts of a group, `start` being the index of the first."""

    seq: int
    size: int
    start: int
    parts: Sequence[Part]
    options: tuple[ActivityOptions, ...]

    @property
    def emit(self) -> GroupEmit:
        """What the commit says about this window."""
        return GroupEmit(self.seq, self.start, self.start + len(self.parts))


def emit_window(
    run: Run, world: World, window: Window, cancelled: Set[int] = frozenset()
) -> list[OpenedStep]:
    """The messages of one window of a group, but of the parts (by seq) that were cancelled meanwhile."""
    return [
        _grouped_step(run, world, window, index, part)
        for index, part in enumerate(window.parts, window.start)
        if window.seq + index not in cancelled
    ]


def _grouped_step(run: Run, world: World, window: Window, index: int, part: Part) -> OpenedStep:
    task = TaskId(run.execution, window.seq + index, 1, run.instance)
    group = GroupRef(f"{run.execution}:{window.seq}", index, window.size)
    options = window.options[part.options]
    return open_step(run, world, task, part.name, part.input, options, group)


def open_step(
    run: Run,
    world: World,
    task: TaskId,
    name: str,
    call: str,
    options: ActivityOptions,
    group: GroupRef | None,
) -> OpenedStep:
    """An activity to open, with its message."""
    queue, message = world.emitter.activity_message(name, str(task), task.step, call, options, run.now, group)
    step = OpenedStep(task.seq, queue, message, task.attempt, group.seq if group else -1)
    if options.schedule_to_start:
        step.deadlines = [Deadline("s", run.now + options.schedule_to_start)]
    return step
