"""An instance with its children and open steps, as a rich tree and as lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.text import Text
from rich.tree import Tree

from celeriac.celery_app.client.progress import (
    ActivityProgress,
    GroupProgress,
    InstanceProgress,
    StepState,
    TimerProgress,
)
from celeriac.celery_app.client.state import shown

from . import render

BAR: Final = 24
MOST_ACTIVITIES: Final = 8  # of one instance, running ones first; the rest is counted


def tree_of(progress: InstanceProgress, height: int = 40) -> Tree:
    """The tree for a terminal of this height."""
    budget = [max(6, height)]
    tree = Tree(_one_line(_head(progress)), guide_style="dim")
    _fill(tree, progress, budget)
    return tree


def steps_of(progress: InstanceProgress, height: int = 12) -> Tree | None:
    """What it waits for now, without itself; None if nothing is open."""
    tree = Tree("", hide_root=True, guide_style="dim")
    _fill(tree, progress, [height])
    return tree if tree.children else None


def _fill(tree: Tree, progress: InstanceProgress, budget: list[int]) -> None:
    alone, parts = _split(progress)
    lines = [
        *(group_text(group, _running(group, parts)) for group in progress.groups),
        *_activities([*alone, *(part for part in parts if part.state is StepState.RETRYING)]),
        *(timer_text(timer) for timer in progress.timers),
    ]
    for line in lines:
        tree.add(_one_line(line))
    budget[0] -= len(lines) + 1
    for number, child in enumerate(progress.children):
        if budget[0] <= 0:
            tree.add(Text(f"and {len(progress.children) - number} more children", style="dim"))
            return
        _fill(tree.add(_one_line(_head(child))), child, budget)


def _one_line(text: Text) -> Text:
    """Cut at the edge of the terminal, not wrapped: the height is counted in lines."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _head(progress: InstanceProgress) -> Text:
    state = progress.state
    text = render.status_text(state.status)
    text.append(f" {state.name} ", style="bold")
    text.append(state.id)
    text.append(f"  {render.duration(render.age(state))}", style="dim")
    if state.waiting:
        text.append(f"  waits: {render.first_line(state.waiting)}", style="yellow")
    if (told := shown(state.custom_text)) is not None:
        text.append(f"  {render.value(told, 60)}", style="italic")
    return text


def _split(progress: InstanceProgress) -> tuple[list[ActivityProgress], list[ActivityProgress]]:
    """The activities that stand alone, and those that are parts of a fan-out."""

    def is_part(activity: ActivityProgress) -> bool:
        return any(_holds(group, activity) for group in progress.groups)

    alone = [activity for activity in progress.activities if not is_part(activity)]
    return alone, [activity for activity in progress.activities if is_part(activity)]


def _holds(group: GroupProgress, activity: ActivityProgress) -> bool:
    return group.seq <= activity.seq < group.seq + group.size


def _running(group: GroupProgress, parts: list[ActivityProgress]) -> int:
    return sum(_holds(group, part) and part.state is StepState.RUNNING for part in parts)


def _activities(activities: Sequence[ActivityProgress]) -> Iterator[Text]:
    order = {StepState.RETRYING: 0, StepState.RUNNING: 1, StepState.QUEUED: 2}
    ordered = sorted(activities, key=lambda activity: (order[activity.state], activity.seq))
    for activity in ordered[:MOST_ACTIVITIES]:
        yield activity_text(activity)
    if len(ordered) > MOST_ACTIVITIES:
        rest = ordered[MOST_ACTIVITIES:]
        counts = {state: sum(a.state is state for a in rest) for state in order}
        words = ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)
        yield Text(f"and {words}", style="dim")


def activity_text(activity: ActivityProgress) -> Text:
    """One open activity: what it does now, and how often it failed."""
    text = Text(f"{activity.name} ")
    now = datetime.now(UTC)
    match activity.state:
        case StepState.RUNNING:
            since = f" {render.duration(now - activity.since)}" if activity.since else ""
            text.append(f"running{since}", style="cyan")
        case StepState.RETRYING:
            left = (activity.retry_at - now).total_seconds() if activity.retry_at else 0.0
            text.append(f"again in {render.duration(max(0.0, left))}", style="yellow")
        case StepState.QUEUED:
            text.append("queued", style="dim")
    if activity.progress is not None:
        text.append(f"  {render.value(activity.progress, 60)}", style="italic")
    if activity.tags:
        text.append(f"  {_tags(activity)}", style="dim")
    if activity.failures:
        last = activity.failures[-1]
        text.append(
            f"  attempt {activity.attempt}; {last.error_type.rpartition('.')[2]}: "
            f"{render.first_line(last.message, 50)}",
            style="yellow",
        )
    return text


def _tags(activity: ActivityProgress) -> str:
    return ", ".join(f"{key}={value}" for key, value in activity.tags.items())


def group_text(group: GroupProgress, running: int) -> Text:
    """A fan-out as a bar."""
    filled = round(BAR * group.done / group.size) if group.size else BAR
    text = Text(f"{group.name or 'fan-out'} ")
    text.append("█" * filled, style="green")
    text.append("░" * (BAR - filled), style="dim")
    text.append(f" {group.done:,}/{group.size:,}")
    if running:
        text.append(f"  {running:,} running", style="cyan")
    if group.failed:
        text.append(f"  {group.failed:,} failed", style="red")
    return text


def timer_text(timer: TimerProgress) -> Text:
    """An open timer with its countdown."""
    left = (timer.due - datetime.now(UTC)).total_seconds()
    return Text(f"timer, due in {render.duration(max(0.0, left))}", style="dim")


def changes(progress: InstanceProgress, seen: dict[str, str]) -> Iterator[str]:
    """The lines that say something new since the last call with the same `seen`."""
    for key, line in lines_of(progress):
        if seen.get(key) != line:
            seen[key] = line
            yield line


def lines_of(progress: InstanceProgress) -> Iterator[tuple[str, str]]:
    """The same as (what it is about, one line), without anything that only ticks."""
    for node in progress.walk():
        where = node.state.id
        yield where, f"{where} {_state_line(node)}"
        for group in node.groups:
            failed = f", {group.failed} failed" if group.failed else ""
            done = f"{group.name or 'fan-out'} {group.done}/{group.size} done{failed}"
            yield f"{where}#{group.seq}", f"{where} {done}"
        alone, parts = _split(node)
        for activity in [*alone, *(part for part in parts if part.failures)]:
            yield f"{where}#{activity.seq}", f"{where} {_activity_line(activity)}"
        for timer in node.timers:
            yield f"{where}#{timer.seq}", f"{where} timer due {render.local(timer.due)}"


def _state_line(node: InstanceProgress) -> str:
    state = node.state
    words = [state.name, state.status.value]
    if (told := shown(state.custom_text)) is not None:
        words.append(render.value(told, 200))
    if state.waiting:
        words.append(f"(waits: {render.first_line(state.waiting, 200)})")
    if state.failure:
        words.append(render.short_failure(state.failure))
    return " ".join(words)


def _activity_line(activity: ActivityProgress) -> str:
    line = f"{activity.name} {activity.state.value}, attempt {activity.attempt}"
    if activity.tags:
        line += f" ({_tags(activity)})"
    if activity.progress is not None:
        line += f" {render.value(activity.progress, 200)}"
    if activity.failures:
        last = activity.failures[-1]
        line += f" after {last.error_type}: {render.first_line(last.message)}"
    return line
