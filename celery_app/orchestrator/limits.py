"""What one instance may take up: events and bytes of history, open steps, depth of sub-orchestrations.

Every limit and what becomes of whoever passes it is listed in docs/reference/limits.md.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celeriac.orchestrations.errors import LimitExceededError
from celeriac.orchestrations.history import (
    AnyEvent,
    CancelRequested,
    SubOrchestrationInstanceCreated,
    TaskScheduled,
)
from celeriac.orchestrations.turn import Turn

from ..settings import Settings
from ..store.records import Claimed, Commit
from .windows import Run

logger = logging.getLogger("celeriac.orchestrator")

WARN_AT = 5  # the part of `max_history` at which the log says so
_HINT = "end runs before they grow so long, with ctx.continue_as_new (see ctx.continue_as_new_suggested)"


def over_history(claimed: Claimed, size: int, controls: Sequence[AnyEvent], settings: Settings) -> str:
    """Why the instance is to be suspended, if its history is as long as it may be; else nothing. `size` is in
    bytes, 0 while unknown.

    A turn that brings a cancellation is let pass, so that the code may end.
    """
    most, largest = settings.max_history, settings.max_history_bytes
    if claimed.history_length < most and size < largest:
        return ""
    if any(isinstance(event, CancelRequested) for event in controls):
        return ""
    if claimed.history_length >= most:
        what = f"{claimed.history_length:,} events; the limit is {most:,} (CELERIAC_MAX_HISTORY)"
    else:
        what = f"{size:,} bytes; the limit is {largest:,} (CELERIAC_MAX_HISTORY_BYTES)"
    return (
        f"the history of this run of {claimed.name} has {what}. "
        f"Raise the limit and resume it, or terminate it; {_HINT}"
    )


def warn_of_history(claimed: Claimed, commit: Commit, settings: Settings) -> None:
    """Say once that a history has become long: when this commit takes it over a fifth of the limit."""
    threshold = settings.max_history // WARN_AT
    if commit.base < threshold <= commit.base + len(commit.events):
        logger.warning(
            "the history of %s (%s) has %d events, it may have %d: %s",
            claimed.instance, claimed.name, commit.base + len(commit.events), settings.max_history, _HINT,
        )  # fmt: skip


def too_many(turn: Turn, open_steps: int, most: int) -> set[int]:
    """The steps of this turn, by seq, that would be open beyond `most`: the last ones. `open_steps` are those
    open after it, a fan-out counting as one. LimitExceededError if there are not so many to refuse.
    """
    excess = open_steps - most
    if excess <= 0:
        return set()
    gone = set(turn.closed)
    refused: set[int] = set()
    for event in reversed(turn.events):
        if len(refused) == excess:
            break
        awaited = isinstance(event, TaskScheduled | SubOrchestrationInstanceCreated)
        if awaited and event.seq not in gone and not getattr(event, "detached", False):
            refused.add(event.seq)
    if len(refused) < excess:
        raise too_many_open(most)
    return refused


def too_many_open(most: int) -> LimitExceededError:
    """The refusal of one step too many."""
    return LimitExceededError(
        f"the instance has {most:,} activities, timers and sub-orchestrations open, as many as it may "
        "(CELERIAC_MAX_OPEN). Schedule wide fan-outs with ctx.map, or await some before asking for more."
    )


def child_depth(run: Run, most: int) -> int:
    """The depth of a child of this run; LimitExceededError if it would be nested too deeply."""
    depth = run.started.depth + 1
    if depth > most:
        raise LimitExceededError(
            f"sub-orchestrations may be nested {most:,} deep (CELERIAC_MAX_DEPTH), and {run.instance} is the "
            f"{run.started.depth:,}. under its root: does {run.started.name} call itself without an end?"
        )
    return depth
