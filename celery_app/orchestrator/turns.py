"""What a turn of the core means for the store: pure translation, no IO.

`translate` makes one `Draft` of a `Turn`: the store's `Commit` and the texts to stage before it. What one
command asks for and cannot be had (an unknown activity, an input over the limit, a message that cannot be
built) fails that command alone: the failure goes into the instance's own inbox with the same commit, as if
a worker had reported it. What fails the instance itself (an output over the limit) becomes a commit that
ends it as Failed. Nothing an author wrote makes this module raise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence, Set
from typing import Any

import msgspec

from celeriac.orchestrations.errors import (
    FailureDetails,
    LimitExceededError,
    PayloadTooLargeError,
    SealedPayloadError,
    UnknownActivityError,
    failure_from,
)
from celeriac.orchestrations.history import (
    OUTSIDE,
    AnyEvent,
    ContinuedAsNew,
    CustomStatusSet,
    EventRaised,
    EventSent,
    ExecutionCancelled,
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionStarted,
    GroupScheduled,
    Part,
    PartOutcome,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskFailed,
    TaskScheduled,
    TimerCancelled,
    TimerCreated,
)
from celeriac.orchestrations.run import UNCHANGED
from celeriac.orchestrations.turn import Turn

from ..messages import TaskId
from ..sealing import Seal
from ..store.records import ChildStart, Commit, GroupOpen, NextRun, Send, new_execution
from .limits import child_depth, too_many_open
from .payloads import Aside, decode_parts
from .windows import Run, Window, World, emit_window, open_step
from .words import cancelled_failure, unknown_activity

FULL = 800  # events and messages that a commit should carry; more wait for the next one where they can
PART_ASIDE_OVER = (
    4 * 1024
)  # bytes of one part's call from which it is put aside, so that a window stays small
MUCH = 2 * 2**20  # bytes of inputs in one turn from which smaller ones are put aside too
LEAST_ASIDE_OVER = 256
INPUT_FIELD = "pin"  # the field of a run's payloads that holds its input

ENDED = frozenset({"Completed", "Failed", "Cancelled"})


@dataclasses.dataclass(slots=True)
class Draft:
    """A commit and what goes with it."""

    commit: Commit
    run: Run
    recorded: list[AnyEvent]  # the new history
    staged: dict[str, bytes]  # field -> blob, to be staged before the commit
    failed_parts: list[
        tuple[TaskId, int, int, PartOutcome]
    ]  # parts (of group seq, index) to fail right after it

    @property
    def ends(self) -> bool:
        """True if the run is over with this commit."""
        return self.commit.next_run is not None or self.commit.status in ENDED


def translate(turn: Turn, run: Run, world: World, refused: Set[int] = frozenset()) -> Draft:
    """The commit of a turn. `refused` are the steps, by seq, that the instance may not have as well."""
    try:
        return _Translation(turn, run, world, refused).draft()
    except _InstanceFails as fails:
        return failed(run, [e for e in turn.events if isinstance(e, OUTSIDE)], fails.details, world.seal)


def failed(run: Run, outside: Sequence[AnyEvent], details: FailureDetails, seal: Seal) -> Draft:
    """The commit that ends a run as Failed for a reason outside its code. `outside`: the events applied."""
    at = outside[-1].at if outside else run.now
    events = [*outside, ExecutionFailed(failure=details, at=at)]
    commit = _commit(run, [seal.encode(event) for event in events])
    commit.status, commit.failure = "Failed", seal.failure(details)
    if run.started.parent:
        commit.parent_event = seal.open_text(
            SubOrchestrationInstanceFailed(seq=run.parent_seq, failure=details)
        )
    return Draft(commit, run, events, {}, [])


def merge(first: Turn, second: Turn) -> Turn:
    """Two turns taken one after the other as one."""
    return Turn(
        events=[*first.events, *second.events],
        consumed=first.consumed + second.consumed,
        outcome=second.outcome,
        custom_status=first.custom_status if second.custom_status is UNCHANGED else second.custom_status,
        closed=(*first.closed, *second.closed),
        dissolved=(*first.dissolved, *second.dissolved),
        dropped=(*first.dropped, *second.dropped),
        carried=second.carried,
        suspended=first.suspended if second.suspended is None else second.suspended,
    )


def _commit(run: Run, events: list[bytes]) -> Commit:
    return Commit(
        instance=run.instance,
        execution=run.execution,
        claim=run.claim,
        base=run.base,
        events=events,
        version=run.version,
    )


class _InstanceFails(Exception):
    """Something that no single command can answer for."""

    def __init__(self, details: FailureDetails) -> None:
        super().__init__(details.message)
        self.details = details


class _Translation:
    """One pass over the events of a turn; each kind of command has a method, see `_HANDLERS`."""

    def __init__(self, turn: Turn, run: Run, world: World, refused: Set[int]) -> None:
        self.turn, self.run, self.world, self.refused = turn, run, world, refused
        self.seal = world.seal
        over = world.settings.aside_over
        inputs = [len(text) for e in turn.events if (text := getattr(e, "input", None)) is not None]
        if sum(inputs) > MUCH:  # so that all that stay in place have about as much room
            over = min(over, PART_ASIDE_OVER, max(LEAST_ASIDE_OVER, MUCH // len(inputs)))
        self.aside = Aside(over, world.settings.max_payload, world.seal)
        self.commit = _commit(run, [])
        self.recorded: list[AnyEvent] = []
        self.closed, self.dropped = set(turn.closed), set(turn.dropped)
        self.opened: set[int] = set()  # closed or dropped by this very turn too: never in the store
        self.failed_parts: list[tuple[TaskId, int, int, PartOutcome]] = []

    def draft(self) -> Draft:
        commit = self.commit
        for event in self.turn.events:
            handler = _HANDLERS.get(type(event))
            self.recorded.append(handler(self, event) if handler else event)
        commit.events = [self.seal.encode(event) for event in self.recorded]
        commit.close = sorted(self.closed - self.opened - set(commit.untimers))
        commit.dissolve = list(self.turn.dissolved)
        commit.staged = bool(self.aside.staged)
        draft = Draft(commit, self.run, self.recorded, self.aside.staged, self.failed_parts)
        if not draft.ends:  # the end closes whatever is open, in bounded steps
            commit.drop = sorted(self.dropped - self.opened)
        return draft

    # --- activities ---

    def task(self, event: TaskScheduled) -> TaskScheduled:
        if event.seq in self.closed:
            self.opened.add(event.seq)
            return event
        try:
            if event.seq in self.refused:
                raise too_many_open(self.world.settings.max_open)
            if not self.world.knows(event.name):
                raise UnknownActivityError(unknown_activity(event.name))
            call = self.aside.put(event.input, f"p{event.seq}i", f"the input of activity {event.name}")
            task = TaskId(self.run.execution, event.seq, 1, self.run.instance)
            step = open_step(self.run, self.world, task, event.name, call or "", event.options, None)
        except SealedPayloadError:
            raise  # the codec does not work just now: nothing is committed
        except Exception as error:  # noqa: BLE001  whatever it is, it fails this task and stops nothing else
            self.commit.own.append(
                self.seal.open_text(TaskFailed(seq=event.seq, failure=failure_from(error)))
            )
            return self._without_input(event)
        self.commit.messages.append(step)
        return event if call is event.input else msgspec.structs.replace(event, input=call)

    def group(self, event: GroupScheduled) -> GroupScheduled:
        parts = [self._part(event, i, part) for i, part in enumerate(decode_parts(event.parts))]
        text = self.aside.put_parts(parts, f"p{event.seq}c")
        if event.seq in self.dropped:
            self.opened.add(event.seq)
            return msgspec.structs.replace(event, parts=text)
        most = self.world.settings.window
        width = min(event.window or most, most)
        room = max(0, FULL - len(self.commit.messages))  # several groups in one turn share it
        first = Window(event.seq, event.size, 0, parts[: min(width, room)], event.options)
        try:
            self.commit.messages += emit_window(self.run, self.world, first)
        except SealedPayloadError:
            raise
        except Exception as error:
            raise _InstanceFails(failure_from(error)) from error
        self.commit.groups.append(
            GroupOpen(event.seq, event.size, width, len(first.parts), self.seal.text(text) or "")
        )
        return msgspec.structs.replace(event, parts=text)

    def _part(self, event: GroupScheduled, index: int, part: Part) -> Part:
        """The part as it is kept. One that nobody can run is emitted all the same, and failed after the
        commit: should this process die in between, a worker finds out.
        """
        if event.seq not in self.dropped and not self.world.knows(part.name):
            failure = failure_from(UnknownActivityError(unknown_activity(part.name)))
            task = TaskId(self.run.execution, event.seq + index, 1, self.run.instance)
            self.failed_parts.append((task, event.seq, index, PartOutcome(failure=failure)))
        if len(part.input) <= PART_ASIDE_OVER // 4:
            return part
        try:
            call = self.aside.put(
                part.input, f"p{event.seq + index}i", f"the input of activity {part.name}", PART_ASIDE_OVER
            )
        except PayloadTooLargeError as error:
            raise _InstanceFails(failure_from(error)) from error
        return part if call is part.input else Part(part.name, call or "", part.options)

    # --- timers, children, events ---

    def timer(self, event: TimerCreated) -> TimerCreated:
        if event.seq in self.closed:
            self.opened.add(event.seq)
        else:
            self.commit.timers.append((event.seq, event.due))
        return event

    def timer_cancelled(self, event: TimerCancelled) -> TimerCancelled:
        self.closed.add(event.seq)
        if any(seq == event.seq for seq, _ in self.commit.timers):
            self.commit.timers = [t for t in self.commit.timers if t[0] != event.seq]
        elif event.seq not in self.opened:
            self.commit.untimers.append(event.seq)
        return event

    def child(self, event: SubOrchestrationInstanceCreated) -> SubOrchestrationInstanceCreated:
        field, depth = f"p{event.seq}i", 0
        try:
            if not event.detached:
                depth = child_depth(self.run, self.world.settings.max_depth)
            if event.seq in self.refused:
                raise too_many_open(self.world.settings.max_open)
            text = self.aside.put(event.input, field, f"the input of orchestration {event.name}")
        except (PayloadTooLargeError, LimitExceededError) as error:
            if event.detached:
                raise _InstanceFails(failure_from(error)) from error
            failure = failure_from(error)
            self.commit.own.append(
                self.seal.open_text(SubOrchestrationInstanceFailed(seq=event.seq, failure=failure))
            )
            return self._without_input(event)
        aside = text is not None and text.startswith("@")
        started = ExecutionStarted(
            execution=new_execution(),
            instance=event.instance,
            name=event.name,
            version=event.version,
            input=f"@{INPUT_FIELD}" if aside else text,
            parent="" if event.detached else self.run.instance,
            tags=event.tags,
            depth=depth,
        )
        more: dict[str, Any] = {"detached": True, "close": "abandon"}
        if not event.detached:
            more = {
                "parent_execution": self.run.execution,
                "parent_seq": event.seq,
                "close": event.parent_close,
            }
        copies = [(field, INPUT_FIELD)] if aside else []
        self.commit.children.append(
            ChildStart.of(self.seal.sealed(started), seq=event.seq, copies=copies, **more)
        )
        return msgspec.structs.replace(event, input=text)

    def sent(self, event: EventSent) -> EventSent:
        field = f"p{event.seq}e"
        text = self._whole(event.input, field, f"the data of event {event.name}")
        aside = text is not None and text.startswith("@")
        there = f"{field}.{self.run.execution}"  # unique among the receiver's payloads
        raised = EventRaised(name=event.name, input=f"@{there}" if aside else text)
        self.commit.sends.append(
            Send(
                instance=event.instance,
                event=self.seal.open_text(raised),
                copies=[(field, there)] if aside else [],
            )
        )
        return msgspec.structs.replace(event, input=text)

    def custom(self, event: CustomStatusSet) -> CustomStatusSet:
        self.commit.custom, self.commit.custom_clear = self.seal.text(event.value), event.value is None
        return event

    # --- the end ---

    def completed(self, event: ExecutionCompleted) -> ExecutionCompleted:
        text = self._whole(event.output, "po", f"the output of orchestration {self.run.started.name}")
        self.commit.status, self.commit.output = "Completed", self.seal.text(text)
        result = text
        if text is not None and text.startswith("@"):
            result = f"@p{self.run.parent_seq}r"
            self.commit.parent_copies = [("po", result[1:])]
        self._tell_parent(SubOrchestrationInstanceCompleted(seq=self.run.parent_seq, result=result))
        return msgspec.structs.replace(event, output=text)

    def failed(self, event: ExecutionFailed) -> ExecutionFailed:
        self.commit.status = "Failed"
        self.commit.failure = self.seal.failure(event.failure)
        self._tell_parent(SubOrchestrationInstanceFailed(seq=self.run.parent_seq, failure=event.failure))
        return event

    def cancelled(self, event: ExecutionCancelled) -> ExecutionCancelled:
        self.commit.status = "Cancelled"
        failure = cancelled_failure(self.run.instance, event.reason)
        self._tell_parent(SubOrchestrationInstanceFailed(seq=self.run.parent_seq, failure=failure))
        return event

    def continued(self, event: ContinuedAsNew) -> ContinuedAsNew:
        text = self._whole(event.input, "pnext", f"the input of orchestration {self.run.started.name}")
        aside = text is not None and text.startswith("@")
        old, execution = self.run.started, new_execution()
        started = ExecutionStarted(
            execution=execution,
            instance=old.instance,
            name=old.name,
            version=self.run.version or old.version,
            input=f"@{INPUT_FIELD}" if aside else text,
            parent=old.parent,
            tags=old.tags,
            run=old.run + 1,
            depth=old.depth,
        )
        copies = [("pnext", INPUT_FIELD)] if aside else []
        carried: list[bytes] = []
        for i, raised in enumerate(self.turn.carried):
            if isinstance(raised, EventRaised) and raised.input is not None and raised.input.startswith("@"):
                field = f"pc{started.run}.{i}"
                copies.append((raised.input[1:], field))
                raised = msgspec.structs.replace(raised, input=f"@{field}")
            carried.append(self.seal.encode(raised))
        self.commit.next_run = NextRun(
            execution=execution, started=self.seal.open_text(started), carried=carried, copies=copies
        )
        return msgspec.structs.replace(event, input=text)

    def _tell_parent(self, event: SubOrchestrationInstanceCompleted | SubOrchestrationInstanceFailed) -> None:
        if self.run.started.parent:
            self.commit.parent_event = self.seal.open_text(event)

    def _whole(self, text: str | None, field: str, what: str) -> str | None:
        """`aside.put` for what fails the instance when it is too large."""
        try:
            return self.aside.put(text, field, what)
        except PayloadTooLargeError as error:
            raise _InstanceFails(failure_from(error)) from error

    def _without_input(self, event: Any) -> Any:
        """The command as recorded when it failed at once: an input over the limit is nowhere kept."""
        if len(event.input or "") <= self.world.settings.aside_over // 4:
            return event
        return msgspec.structs.replace(event, input="[[],{}]" if type(event) is TaskScheduled else None)


_HANDLERS: dict[type, Callable[[_Translation, Any], AnyEvent]] = {
    TaskScheduled: _Translation.task,
    GroupScheduled: _Translation.group,
    TimerCreated: _Translation.timer,
    TimerCancelled: _Translation.timer_cancelled,
    SubOrchestrationInstanceCreated: _Translation.child,
    EventSent: _Translation.sent,
    CustomStatusSet: _Translation.custom,
    ExecutionCompleted: _Translation.completed,
    ExecutionFailed: _Translation.failed,
    ExecutionCancelled: _Translation.cancelled,
    ContinuedAsNew: _Translation.continued,
}
