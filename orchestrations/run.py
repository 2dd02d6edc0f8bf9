"""The ledger of one execution: what it has open, and what its code asked for in the present step.

The context and the tasks write into it; the driver in replay.py reads it at the end of each step. A
command that is taken back in the step that issued it leaves no trace. While replaying, each command
is compared with the recorded one as it is issued, so that an equal history costs one comparison.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .commands import describe, first_difference
from .errors import LimitExceededError, NonDeterminismError
from .history import AnyEvent, CommandEvent, CustomStatusSet, Event, PartOutcome, PatchMarker
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .steps import Step

__all__ = ["MOST_ISSUED", "UNCHANGED", "Grouped", "Payloads", "Run", "Unchanged"]

_HERE = os.path.dirname(__file__)
MOST_ISSUED = 20_000  # commands of one step: what one commit can carry. No history can hold more.


class Payloads(Protocol):
    """Where texts are that the history only refers to."""

    def text(self, ref: str, /) -> str:
        """The JSON text of `@field`; anything else is returned unchanged."""
        ...

    def group(self, seq: int, /) -> Sequence[PartOutcome]:
        """How the parts of a finished group ended, in index order."""
        ...


class Unchanged:
    """The type of UNCHANGED."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED = Unchanged()
"""The custom status was not set in this turn."""


class Grouped(Protocol):
    """Whoever takes the outcomes of a group."""

    def _take_outcomes(self, seq: int, failed: int) -> bool: ...


class Run:
    """The state of one execution that its context, its tasks and its driver share."""

    __slots__ = (
        "at", "broken", "closed", "custom_status", "dissolved", "dropped", "exact", "execution", "expected",
        "finished", "groups", "history_length", "history_size", "in_author", "instance", "issued", "mailbox",
        "next_run", "next_seq", "numbered", "open", "over", "patches", "payloads", "replaying", "run", "step",
        "thinned", "where",
    )  # fmt: skip

    def __init__(self, payloads: Payloads) -> None:
        self.payloads = payloads
        self.instance = self.execution = ""
        self.run = 0  # how often the instance has continued as new
        self.at = 0  # milliseconds since the epoch: the time of the step
        self.replaying = False
        self.in_author = False  # is the author's code on the stack?
        self.over = False  # discarded: what the author's code still asks for does not count
        self.next_run: tuple[str | None, bool] | None = None  # input and preserve_events of continue_as_new
        self.broken: BaseException | None = None  # a payload could not be read; the turn must not count
        self.next_seq = 0
        self.numbered = 0  # tasks created
        self.finished = 0  # tasks finished
        self.open: dict[int, Step[Any]] = {}
        self.groups: dict[int, Grouped] = {}
        self.mailbox = Mailbox()
        self.patches: dict[str, bool] = {}
        self.history_length = 0
        self.history_size = 0
        # of the present step
        self.step = 0
        self.issued: list[CommandEvent | None] = []
        self.thinned = False  # does `issued` hold gaps?
        self.expected: Sequence[AnyEvent] = ()
        self.exact = True  # was every command equal to the recorded one?
        self.where: dict[int, str] = {}  # position in `issued` -> file:line, for those that were not
        # of the present turn
        self.closed: list[int] = []
        self.dissolved: list[int] = []
        self.dropped: list[int] = []
        self.custom_status: str | Unchanged | None = UNCHANGED

    def number(self) -> int:
        """The number of a new task."""
        self.numbered += 1
        return self.numbered

    def take_seq(self, count: int = 1) -> int:
        """Reserve the next `count` command numbers; the first of them."""
        seq = self.next_seq
        self.next_seq = seq + count
        return seq

    def issue(self, command: CommandEvent) -> int:
        """Ask for something; its position among the commands of this step."""
        issued = self.issued
        slot = len(issued)
        if self.over:
            return -1
        if slot >= MOST_ISSUED:
            self.broken = LimitExceededError(
                f"the code asked for more than {MOST_ISSUED:,} things before it awaited any of them"
                f"{f', at {where}' if (where := self._author_line()) else ''}. "
                "Schedule wide fan-outs with ctx.map, or await some before asking for more."
            )
            raise self.broken
        if self.replaying and not (slot < len(self.expected) and self.expected[slot] == command):
            self.exact = False
            self.where[slot] = self._author_line()
        issued.append(command)
        return slot

    def withdraw(self, step: int, slot: int) -> bool:
        """Take back what this very step asked for; False if it was another step."""
        if step != self.step or slot < 0:
            return False
        self.issued[slot] = None
        self.thinned = True
        return True

    def ending(self) -> bool:
        """Must the author's code not go on? It has continued as new, or the turn cannot count."""
        return self.next_run is not None or self.broken is not None

    def text(self, payload: str | None) -> str | None:
        """The JSON text of a payload. A failure to read it must not look like the author's own error."""
        if payload is None or payload[:1] != "@":
            return payload
        try:
            return self.payloads.text(payload)
        except BaseException as error:
            self.broken = error
            raise

    def outcomes(self, seq: int, size: int) -> Sequence[PartOutcome]:
        """The outcomes of a finished group; a failure to read them is treated as in `text`."""
        try:
            found = self.payloads.group(seq)
            if len(found) != size:
                raise RuntimeError(f"group {seq} has {size} parts, but {len(found)} outcomes were found")
        except BaseException as error:
            self.broken = error
            raise
        return found

    def begin(self, at: int, expected: Sequence[AnyEvent] = ()) -> None:
        """Start a step; `expected` are the commands recorded for it."""
        self.at = at
        self.step += 1
        self.history_length += 1
        self.issued = []
        self.thinned = False
        self.expected = expected
        self.exact = True
        if self.where:
            self.where = {}

    def end(self) -> list[CommandEvent]:
        """The commands of the step that is over."""
        commands = [command for command in self.issued if command is not None]
        for command in commands:
            self.history_size += size_of(command)
        self.issued, self.expected = [], ()  # they may be large, and the execution may stay for days
        return commands

    def compare(self, awaiting: Callable[[], str]) -> None:
        """Raise NonDeterminismError unless the step asked for what was recorded.

        `awaiting` tells where the author's code stands now.
        """
        if self.exact and not self.thinned and len(self.issued) == len(self.expected):
            return
        commands = [command for command in self.issued if command is not None]
        different = first_difference(self.expected, commands, self.payloads.text)
        if different is None:
            return
        recorded, issued = different
        slot = next((i for i, command in enumerate(self.issued) if command is issued), -1)
        where = self.where.get(slot, "") or awaiting()
        seq = getattr(recorded if recorded is not None else issued, "seq", None)
        raise NonDeterminismError(seq, describe(recorded), describe(issued), where)

    def _author_line(self) -> str:
        """The innermost line of the author's code on the stack."""
        if not self.in_author:
            return ""
        frame = sys._getframe(2)
        while frame is not None and os.path.dirname(frame.f_code.co_filename) == _HERE:
            frame = frame.f_back
        return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def size_of(event: Event) -> int:
    """About how many bytes an event takes; the same live and on replay, so payloads by what the code gave."""
    if isinstance(event, CustomStatusSet | PatchMarker):
        return 0
    size = 64
    for field in ("input", "result", "output", "parts"):
        size += len(getattr(event, field, None) or "")
    return size
