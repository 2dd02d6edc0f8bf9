"""What calls carry to the scripts and what they bring back.

Those that scripts read travel as one MessagePack map with these field names; a field that has its
default is left out, so every default must mean the same to Lua's `nil`.

*Open text*: the JSON of an event (or PartOutcome) at `at=0`, without its closing brace (`open_text`).
The script appends `,"at":<Redis' clock>}`, so that user values are spliced and never parsed.
"""

from __future__ import annotations

import secrets
from typing import Any, Self

import msgspec

from celeriac.orchestrations.errors import Attempt
from celeriac.orchestrations.history import ExecutionStarted, PartOutcome, encode_event

__all__ = [
    "ChildStart",
    "Claimed",
    "Commit",
    "CommitReply",
    "Deadline",
    "GroupEmit",
    "GroupOpen",
    "InstanceRecord",
    "Lapsed",
    "NextRun",
    "OpenedStep",
    "Page",
    "Process",
    "Progress",
    "Query",
    "Send",
    "StartReply",
    "StartRequest",
    "Summary",
    "SweepReport",
    "new_execution",
    "open_text",
]

_outcome_encoder = msgspec.json.Encoder()


def new_execution() -> str:
    """A fresh execution id."""
    return secrets.token_hex(8)


def open_text(event: Any) -> bytes:
    """The JSON of an event (with `at=0`) or PartOutcome, without its closing brace."""
    if isinstance(event, PartOutcome):
        return _outcome_encoder.encode(event)[:-1]
    if event.at:
        raise ValueError(f"{type(event).__name__}.at is written by the store; leave it 0")
    return encode_event(event)[:-1]


class StartRequest(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Start an instance. `started` is the open text of its ExecutionStarted (see `StartRequest.of`)."""

    instance: str
    execution: str
    name: str
    started: bytes
    version: str = ""
    tags: dict[str, str] = {}
    payloads: list[tuple[str, bytes]] = []  # fields of the payload hash that `started` refers to
    start_at: int = 0  # ms; 0: now
    on_conflict: str = "fail"  # or use_existing, terminate_existing
    idempotency_key: str = ""
    parent: str = ""
    parent_execution: str = ""
    parent_seq: int = 0
    close: str = "terminate"  # parent_close
    copies: list[tuple[str, str]] = []  # (field of the payloads of `copy_from`, field of the new run's)
    copy_from: str = ""  # an execution; of a child, the parent's

    @classmethod
    def of(cls, event: ExecutionStarted, **more: Any) -> Self:
        """A request for the run that `event` (at=0) starts; `more` are the other fields."""
        return cls(
            instance=event.instance,
            execution=event.execution,
            name=event.name,
            version=event.version,
            tags=event.tags,
            parent=event.parent,
            started=open_text(event),
            **more,
        )


class StartReply(msgspec.Struct, frozen=True):
    """Which instance there is now; `created` is False for use_existing and a known idempotency key."""

    instance: str
    execution: str
    created: bool


class Deadline(msgspec.Struct, frozen=True, array_like=True):
    """`kind`: `c` start to close, `s` schedule to start, `h` heartbeat."""

    kind: str
    due: int


class OpenedStep(msgspec.Struct, array_like=True):
    """An activity to open, with the very Celery message that goes to its queue."""

    seq: int
    queue_key: str
    message: bytes
    attempt: int = 1
    group: int = -1  # the group's seq, or -1
    deadlines: list[Deadline] = []


class GroupOpen(msgspec.Struct, array_like=True):
    """A group to open. Its first window is among the commit's messages, `cursor` parts long."""

    seq: int
    size: int
    window: int
    cursor: int
    parts: str = ""  # payload with the parts, for whoever looks


class GroupEmit(msgspec.Struct, array_like=True):
    """Parts `start` to `stop` (exclusive) of an open group are among the commit's messages."""

    seq: int
    start: int
    stop: int


class ChildStart(StartRequest, omit_defaults=True, kw_only=True):
    """A child to start in a commit; `detached` ones are not awaited (`seq` unused).

    `parent`, `parent_execution`, `parent_seq`, `copy_from` and `refused` are filled by `turns.commit`.
    """

    seq: int = 0
    detached: bool = False
    refused: bytes = b""


class Send(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An event to another instance (or to itself)."""

    instance: str
    event: bytes  # open text of an EventRaised
    copies: list[tuple[str, str]] = []


class NextRun(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Continue as new: what the next run starts with."""

    execution: str
    started: bytes  # open text of its ExecutionStarted
    carried: list[bytes] = []  # whole JSON texts of unconsumed events, put before the remaining inbox
    copies: list[tuple[str, str]] = []  # payloads of this run that the next one needs, field by field


class Commit(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Everything one turn does, applied at once or not at all."""

    instance: str
    execution: str
    claim: str
    base: int  # history length that the turn was computed on
    events: list[bytes] = []  # new history, whole JSON texts
    controls: int = 0  # control items consumed
    inbox: int = 0  # inbox items consumed
    status: str = ""  # empty: unchanged (a Pending instance becomes Running by its first commit)
    custom: str | None = None  # JSON text; None: unchanged
    custom_clear: bool = False
    version: str = ""  # pinned by this commit; empty: unchanged
    output: str | None = None
    failure: str | None = None  # JSON of FailureDetails
    close: list[int] = []  # steps closed by the author: activities, timers, children (awaiting ends)
    untimers: list[int] = []  # the same, for timers
    messages: list[OpenedStep] = []
    timers: list[tuple[int, int]] = []  # (seq, due)
    children: list[ChildStart] = []
    sends: list[Send] = []
    groups: list[GroupOpen] = []
    emits: list[GroupEmit] = []
    dissolve: list[int] = []
    drop: list[int] = []  # groups cancelled whole: gone with all their parts
    own: list[bytes] = []  # open texts of events for the instance's own inbox: commands that failed at once
    next_run: NextRun | None = None
    parent_event: bytes = b""  # when it ends and has a parent: open text of SubOrchestrationInstance...
    parent_copies: list[tuple[str, str]] = []  # payloads of this run that the parent needs
    staged: bool = False  # whether payloads were staged for it, which must be there

    @property
    def items(self) -> int:
        """How many things it carries; at most MAX_ITEMS."""
        lists = (self.events, self.messages, self.timers, self.children, self.sends, self.groups, self.own)
        return sum(map(len, lists)) + len(self.close) + len(self.untimers) + len(self.drop)


class CommitReply(msgspec.Struct, frozen=True):
    """`ready`: more is waiting for this instance. `undelivered`: targets of sends that do not run."""

    ready: bool
    undelivered: list[str]
    replayed: bool = False  # this very commit had been applied before


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed instance with what is to be applied."""

    instance: str
    claim: str
    execution: str
    name: str
    version: str
    status: str
    suspended: bool
    run: int
    parent: str
    parent_seq: int
    crashes: int
    alone: bool
    history_length: int
    last: str  # the claim of the last commit: what the history is, for a claim is never used twice
    controls: list[bytes]
    inbox: list[bytes]
    inbox_left: int  # inbox items beyond those returned


class Lapsed(msgspec.Struct, frozen=True):
    """A deadline that passed while its attempt is still open; whoever gets it decides retry or failure."""

    kind: str
    execution: str
    seq: int
    attempt: int
    instance: str


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one bounded sweep did; `more`: call again soon."""

    claims_back: int = 0
    messages_back: int = 0
    closed: int = 0
    lapsed: list[Lapsed] = []
    dead: list[str] = []  # incarnations found dead
    more: bool = False


class InstanceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The whole record of an instance, as `get` returns it. Texts are JSON; `@field` refers to payloads."""

    instance: str
    execution: str
    name: str
    version: str
    status: str
    created: int
    updated: int
    output: str | None
    failure: str | None
    custom: str | None
    tags: dict[str, str]
    parent: str
    parent_execution: str
    parent_seq: int
    run: int
    suspect: bool
    crashes: int
    waiting: str
    reason: str
    started: bytes | None  # the ExecutionStarted event of this run, which has the input
    history_length: int
    inbox_length: int
    start_at: int  # of a delayed start that has not come; else 0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a listing."""

    instance: str
    name: str
    version: str
    status: str
    created: int
    updated: int
    custom: str | None
    tags: dict[str, str]
    parent: str
    waiting: str


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which instances to list; all given conditions must hold."""

    status: tuple[str, ...] = ()
    name: str = ""
    created_from: int = 0
    created_to: int = 0  # 0: no end
    prefix: str = ""
    tag: str = ""  # key=value


class Page(msgspec.Struct, frozen=True):
    """Instances, newest first (by id when only a prefix is asked for); `cursor` is empty on the last page."""

    items: list[Summary]
    cursor: str


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """An open step or group of an instance, for `watch`."""

    seq: int
    kind: str  # activity, timer, child, group
    state: str = ""  # of an activity: queued, running, parked; of a group: open, dissolved
    attempt: int = 0
    worker: str = ""  # incarnation that runs it
    since: int = 0
    child: str = ""  # instance id of a child
    group: int = -1  # seq of the group an activity is part of
    size: int = 0
    done: int = 0
    failed: int = 0
    in_flight: int = 0
    emitted: int = 0
    due: int = 0  # of a timer or a parked attempt
    failures: tuple[Attempt, ...] = ()  # failed attempts of an activity so far, the last ten
    note: str = ""  # JSON that the last heartbeat of an activity told


class Process(msgspec.Struct, frozen=True):
    """A process that beats: `info` is what it says about itself (JSON)."""

    incarnation: str
    info: bytes
    lapses_at: int
