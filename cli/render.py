"""How results look in a terminal: tables, one instance in detail, a history, a live tree.

Colours say status only; everything is also said in words, and without a terminal the text is plain and as
wide as it needs to be.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from celeriac.celery_app.client.progress import ProcessInfo
from celeriac.celery_app.client.queues import PoisonMessage
from celeriac.celery_app.client.state import OrchestrationState, Status, shown
from celeriac.orchestrations.errors import FailureDetails

NARROW: Final = 80  # columns; below, a table breaks lines rather than cut them
LONG_ID: Final = 36  # as long as a UUID
NARROW_ID: Final = 20
WIDE: Final = 10_000  # columns of a pipe: whoever reads it cuts for himself
COLOURS: Final = {
    Status.PENDING: "yellow",
    Status.RUNNING: "cyan",
    Status.SUSPENDED: "magenta",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.TERMINATED: "red",
    Status.CANCELLED: "red",
}
MARKS: Final = {
    Status.PENDING: "·",
    Status.RUNNING: "▸",
    Status.SUSPENDED: "‖",
    Status.COMPLETED: "✓",
    Status.FAILED: "✗",
    Status.TERMINATED: "■",
    Status.CANCELLED: "⊘",
}
SHOWN_FRAMES: Final = 2
# Where our own packages are, by the path that they were imported by and by the real one.
OURS: Final = tuple(
    place / name
    for place in {Path(__file__).parents[1], Path(__file__).resolve().parents[1]}
    for name in ("orchestrations", "activities", "celery_app", "cli")
)
FRAME: Final = re.compile(r'^(?=  File ")', re.MULTILINE)
# By path, because the trace may come from another machine. Examples and shipped activities are an author's.
ENGINE: Final = re.compile(
    r"/(?:site|dist)-packages/(?:celery|kombu|billiard)/"
    r"|/celeriac/(?:orchestrations/(?!examples/)|activities/(?!shipped/)|celery_app/|cli/)"
)
LIBRARY: Final = re.compile(r"/(?:site|dist)-packages/|/lib(?:64)?/python3[.0-9]*/|^<frozen ")


def console() -> Console:
    """The console of a command. A pipe gets whole lines, no colours and no cut columns."""
    piped = not sys.stdout.isatty()
    return Console(
        width=WIDE if piped and "COLUMNS" not in os.environ else None,
        highlight=False,
        soft_wrap=False,
    )


def status_text(status: Status) -> Text:
    """The status, coloured."""
    return Text(f"{MARKS[status]} {status.value}", style=COLOURS[status])


def duration(length: timedelta | float) -> str:
    """A length of time in at most two units: `840 ms`, `12.3 s`, `4 min 05 s`, `3 d 02 h`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h"


def size(count: float) -> str:
    """A number of bytes: `812 B`, `3.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def local(when: datetime) -> str:
    """A time as the reader's clock shows it; the date only when it is not today."""
    here = when.astimezone()
    today = datetime.now(UTC).astimezone().date() == here.date()
    return here.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def value(content: Any, limit: int = 0) -> str:
    """A JSON value on one line, cut to `limit` characters."""
    text = json.dumps(content, ensure_ascii=False)
    return text if not limit or len(text) <= limit else text[: limit - 1] + "…"


def age(state: OrchestrationState) -> timedelta:
    """How long the instance took, or has been there."""
    return state.elapsed if state.is_final else datetime.now(UTC) - state.created_at


def state_table(states: Sequence[OrchestrationState], width: int = WIDE) -> Table:
    """`celeriac list`; without the times where there is no room for them."""
    narrow = width < NARROW
    table = plain_table("Instance", "Name", "Status", *([] if narrow else ["Created", "Took"]), "About")
    table.columns[0].overflow = "fold"  # an id that is cut is of no use
    table.columns[0].no_wrap = False
    # What tells instances apart comes first; the rest shares what room is left.
    longest = max((len(state.id) for state in states), default=0)
    table.columns[0].min_width = min(longest, NARROW_ID if narrow else LONG_ID)
    table.columns[2].min_width = 12
    for state in states:
        table.add_row(
            Text(state.id),
            Text(f"{state.name} {state.version}".strip()),
            status_text(state.status),
            *([] if narrow else [local(state.created_at), duration(age(state))]),
            about(_about(state)),
        )
    return table


def _about(state: OrchestrationState) -> str:
    if state.failure is not None:
        return short_failure(state.failure)
    if state.waiting:
        return first_line(f"waits: {state.waiting}")
    if state.reason:
        return first_line(state.reason)
    return value(shown(state.custom_text), 60) if state.custom_text is not None else ""


def short_failure(failure: FailureDetails) -> str:
    """What went wrong, on one line: a failed step's own error, else what the code itself raised."""
    while failure.inner is not None and failure.error_type.endswith(".TaskFailedError"):
        failure = failure.inner
    return f"{failure.error_type.rpartition('.')[2]}: {first_line(failure.message)}"


def first_line(text: str, limit: int = 80) -> str:
    """The first line of a text that says anything; cut when it is too long or not the last."""
    first, *more = [line.rstrip() for line in text.splitlines() if line.strip()] or [""]
    if len(first) > limit:
        return first[: limit - 1] + "…"
    return f"{first} …" if more else first


def show_state(out: Console, state: OrchestrationState, steps: Tree | None = None) -> None:
    """`celeriac status`: one instance, one fact a line, only what there is; `steps` is what it does now."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("Instance", Text(state.id, style="bold"))
    grid.add_row("Name", Text(f"{state.name}{f' (version {state.version})' if state.version else ''}"))
    grid.add_row("Status", status_text(state.status))
    grid.add_row("Created", local(state.created_at))
    grid.add_row("Took" if state.is_final else "Age", duration(age(state)))
    facts: list[tuple[str, Any]] = [
        ("Parent", state.parent_id),
        ("Tags", ", ".join(f"{k}={v}" for k, v in state.tags.items())),
        ("Run", state.run or None),
        ("Events", state.history_length or None),
        ("Waits for", _waits_for(state)),
        ("Reason", state.reason),
    ]
    for name, fact in facts:
        if fact:
            grid.add_row(name, Text(str(fact)))
    for name, text, content in (
        ("Input", state.input_text, shown(state.input_text)),
        ("Custom status", state.custom_text, shown(state.custom_text)),
        ("Output", state.output_text, shown(state.output_text)),
    ):
        if text is not None:
            grid.add_row(name, Text(value(content, 2000)))
    if state.failure is not None:
        grid.add_row("Failure", failure_text(state.failure))
    if steps is not None:
        grid.add_row("Now", steps)
    out.print(grid)


def _waits_for(state: OrchestrationState) -> str:
    """What it waits for, unless that is also the reason of its status, which is said beside it."""
    return "" if state.waiting == state.reason else state.waiting


def failure_text(failure: FailureDetails) -> Text:
    """An error with what it was raised from, and the last frames of the user's code."""
    text = Text(f"{failure.error_type}: {failure.message}", style="red")
    _append_frames(text, failure)
    inner = failure.inner
    while inner is not None:
        text.append(f"\nfrom {inner.error_type}: {first_line(inner.message, 200)}")
        _append_frames(text, inner)
        inner = inner.inner
    return text


def _append_frames(text: Text, failure: FailureDetails) -> None:
    frames = author_frames(failure.stack_trace or "")
    if frames:
        text.append("\n" + "\n".join(frames), style="dim")


def author_frames(stack: str) -> list[str]:
    """The last frames of a stack outside the engine, among them the author's last line where there is one."""
    frames = [part.rstrip() for part in FRAME.split(stack) if part.startswith('  File "')]
    rest = [frame for frame in frames if not ENGINE.search(_path(frame))] or frames
    shown = rest[-SHOWN_FRAMES:]
    own = [frame for frame in rest if not LIBRARY.search(_path(frame))]
    if own and not set(own) & set(shown):  # it was raised deep in a library: say where the author called it
        shown = [own[-1], *shown[1:]]
    return shown


def _path(frame: str) -> str:
    """The file of a frame; a checkout that is run in place counts as the installed package."""
    path = frame.partition('"')[2].partition('"')[0]
    within = next((folder for folder in OURS if path.startswith(f"{folder}/")), None)
    return path if within is None else f"/celeriac/{within.name}{path[len(str(within)) :]}"


def process_table(processes: Sequence[ProcessInfo], lease: float, beat: float, width: int = WIDE) -> Table:
    """`celeriac workers`. `lease` and `beat` in seconds: when each was last heard of, and what is late."""
    table = plain_table("Process", "Pid", "Up", "Beat", "Serves", "Pool", "Host")
    for column in table.columns[5 if width >= NARROW else 3 :]:
        column.overflow, column.no_wrap = "fold", False
    table.columns[0].min_width, table.columns[1].min_width = 12, 7
    now = datetime.now(UTC)
    for process in processes:
        info = process.info
        started = info.get("started")
        up = duration(now - datetime.fromtimestamp(started / 1000, UTC)) if isinstance(started, int) else ""
        silence = (now - process.lapses_at).total_seconds() + lease
        host = info.get("host") or str(info.get("hostname", "")).rpartition("@")[2]
        pool = f"{info['pool']} × {info.get('concurrency', '?')}" if "pool" in info else ""
        serves = info.get("queues") or info.get("apps") or ()
        table.add_row(
            Text(process.kind),
            str(info.get("pid", "")),
            up,
            _heard(silence, lease, beat),
            Text(", ".join(map(str, serves)) if isinstance(serves, list | tuple) else str(serves)),
            Text(pool),
            Text(str(host)),
        )
    return table


def _heard(silence: float, lease: float, beat: float) -> Text:
    """When a process was last heard of: without a beat it may be dead, without a lease it is."""
    if silence > lease:
        return Text(f"dead: not heard for {duration(silence)}", style="red")
    if silence > 1.5 * beat + 1:
        return Text(f"not heard for {duration(silence)}", style="yellow")
    return Text(f"alive, {duration(max(0.0, silence))} ago", style="green")


def poison_table(messages: Iterable[PoisonMessage]) -> Table:
    """`celeriac queue poison`; the message as JSON, so that it can be pushed again."""
    table = plain_table("Since", "Tries", "Reason", "Message")
    for message in messages:
        payload = message.to_payload()
        words = (first_line(str(payload[key]), 200) for key in ("since", "tries", "reason"))
        table.add_row(*map(Text, words), Text(value(payload["message"])))
    return table


def plain_table(*columns: str) -> Table:
    """A table without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=column != "About")
    return table


def about(text: str) -> Text:
    """A cell of the column About: takes what room there is, and is cut there."""
    return Text(text, no_wrap=True, overflow="ellipsis")
