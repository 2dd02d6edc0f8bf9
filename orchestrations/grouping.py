"""Which fan-outs become a Celery group: the `when_all` of activities scheduled in the step that awaits it."""

from __future__ import annotations

from typing import Any

import msgspec

from .history import ActivityOptions, GroupScheduled, Part, TaskScheduled
from .run import Run
from .steps import ActivityTask, Parts
from .tasks import OPEN, AllTask, Task

__all__ = ["group_awaited"]

_encoder = msgspec.json.Encoder()


def group_awaited(run: Run, awaited: Task[Any]) -> None:
    """If this step scheduled exactly what it now awaits, put one GroupScheduled in place of the parts."""
    if type(awaited) is not AllTask or awaited.fail_fast:
        return
    tasks = _fresh_parts(run, awaited)
    if tasks is None:
        return
    commands: list[TaskScheduled] = []
    for task in tasks:
        command = run.issued[task._slot]
        if not isinstance(command, TaskScheduled):
            return
        commands.append(command)
    for task in tasks:
        run.issued[task._slot] = None
    options, parts = _parts(commands)
    first = commands[0]
    name = first.name if all(command.name == first.name for command in commands) else ""
    run.thinned = True
    run.issued[min(task._slot for task in tasks)] = GroupScheduled(
        at=run.at, seq=first.seq, size=len(tasks), name=name, options=tuple(options),
        parts=_encoder.encode(parts).decode(),
    )  # fmt: skip
    run.groups[first.seq] = Parts(tasks)


def _fresh_parts(run: Run, awaited: AllTask) -> list[ActivityTask[Any]] | None:
    """The parts by number, if they may be a group: two or more, new, gapless, and awaited nowhere else."""
    tasks: list[ActivityTask[Any]] = []
    for task in dict.fromkeys(awaited._members):
        if type(task) is not ActivityTask or task._step != run.step or task._state != OPEN:
            return None
        if task._groups is None or len(task._groups) != 1:
            return None
        tasks.append(task)
    tasks.sort(key=lambda task: task.seq)
    gapless = len(tasks) > 1 and tasks[-1].seq - tasks[0].seq == len(tasks) - 1
    return tasks if gapless else None


def _parts(commands: list[TaskScheduled]) -> tuple[list[ActivityOptions], list[Part]]:
    """The parts, with equal options written once."""
    options: list[ActivityOptions] = []
    by_object: dict[int, int] = {}
    by_text: dict[bytes, int] = {}
    parts: list[Part] = []
    for command in commands:
        index = by_object.get(id(command.options))
        if index is None:
            index = by_text.setdefault(_encoder.encode(command.options), len(options))
            if index == len(options):
                options.append(command.options)
            by_object[id(command.options)] = index
        parts.append(Part(command.name, command.input, index))
    return options, parts
