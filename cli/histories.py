"""A history as JSON and as lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.text import Text

from celeriac.celery_app.client.state import iso, moment
from celeriac.celery_app.sealing import FREE, PREFIX
from celeriac.orchestrations import history as kinds
from celeriac.orchestrations.history import AnyEvent, Event

from . import render

SHOWN: Final = 100  # characters of a payload
NARROW: Final = 100  # columns; below, the time of day gives way to the rest
OUTSIDE: Final = kinds.OUTSIDE


def to_payload(event: AnyEvent) -> dict[str, Any]:
    """An event as recorded, so that it can be replayed, with its kind and time in words beside it."""
    return {
        "type": type(event).__name__,
        "timestamp": iso(moment(event.at)),
        **msgspec.json.decode(kinds.encode_event(event)),
    }


def show(events: Sequence[AnyEvent]) -> None:
    """Print a history: what came from outside flush left, what the code asked for indented below it."""
    out = render.console()
    if not events:
        out.print("No history yet: no orchestrator worker has taken this instance.")
        return
    narrow = out.width < NARROW
    table = render.plain_table("", *([] if narrow else ["Time"]), "After", "Event", "About")
    names = {seq_of(event): name_of(event) for event in events if name_of(event)}
    first = events[0].at
    for number, event in enumerate(events):
        outside = isinstance(event, OUTSIDE)
        time = render.local(datetime.fromtimestamp(event.at / 1000, UTC))
        table.add_row(
            Text(str(number), style="dim"),
            *([] if narrow else [time]),
            f"+{render.duration((event.at - first) / 1000)}" if number else "",
            Text(f"{'' if outside else '  '}{type(event).__name__}", style=_style(event)),
            render.about(_about(event, names)),
        )
    out.print(table)


def seq_of(event: Event) -> int | None:
    """The step that the event belongs to, if it belongs to one."""
    return getattr(event, "seq", None)


def name_of(event: Event) -> str:
    """What the step that the event belongs to is called."""
    match event:
        case kinds.TaskScheduled(name=name) | kinds.GroupScheduled(name=name):
            return name
        case kinds.SubOrchestrationInstanceCreated(name=name, instance=instance):
            return f"{name} as {instance}"
        case _:
            return ""


def _style(event: Event) -> str:
    kind = type(event).__name__
    if kind.endswith(("Failed", "Terminated", "Cancelled", "CancelRequested")):
        return "red"
    return "green" if kind.endswith("Completed") else ""


def _about(event: AnyEvent, names: dict[int | None, str]) -> str:
    seq = seq_of(event)
    head = "" if seq is None else f"#{seq} {names.get(seq, '')}".rstrip()
    attempts = getattr(event, "attempts", ())
    tries = f"(after {len(attempts)} failed attempt{'' if len(attempts) == 1 else 's'})" if attempts else ""
    return " ".join(part for part in (head, _detail(event), tries) if part)


def _detail(event: AnyEvent) -> str:
    match event:
        case kinds.ExecutionStarted(name=name, version=version, input=text, reason=reason):
            why = f"(restarted: {render.first_line(reason)})" if reason else ""
            return " ".join(part for part in (name, version, _payload(text), why) if part)
        case kinds.TaskScheduled(input=text, options=options) if options.tags:
            return f"{_payload(text)} ({', '.join(f'{k}={v}' for k, v in options.tags.items())})"
        case kinds.GroupScheduled() | kinds.GroupCompleted():
            return _group(event)
        case kinds.TimerCreated(due=due):
            return f"due {render.local(datetime.fromtimestamp(due / 1000, UTC))}"
        case kinds.EventRaised(name=name, input=text) | kinds.EventSent(name=name, input=text):
            return f"{name} {_payload(text)}".rstrip()
        case _:
            return _payload(_given(event)) or _outcome(event) or _ending(event)


def _group(event: kinds.GroupScheduled | kinds.GroupCompleted) -> str:
    if isinstance(event, kinds.GroupScheduled):
        return f"{event.size} parts"
    return f"{event.failed} failed" if event.failed else "all succeeded"


def _given(event: AnyEvent) -> str | None:
    """What the code handed over: to an activity, a child, the next run, or those who watch."""
    return getattr(event, "input", None) or getattr(event, "value", None)


def _outcome(event: AnyEvent) -> str:
    """What came back, or went back."""
    for name in ("result", "output"):
        if hasattr(event, name):
            return f"→ {_payload(getattr(event, name)) or 'null'}"
    return ""


def _ending(event: AnyEvent) -> str:
    failure = getattr(event, "failure", None)
    if failure is not None:
        return render.short_failure(failure)
    return render.first_line(str(getattr(event, "reason", "") or getattr(event, "change", "")), 200)


def _payload(text: str | None) -> str:
    if text is None:
        return ""
    if text.startswith("@"):
        return "(a large value)"
    if text.startswith(PREFIX):
        return FREE
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
