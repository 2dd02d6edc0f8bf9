"""An engine for tests: instances, activities, timers and events in one process, on virtual time.

It drives the same `Execution` as the real engine, one event at a time, and executes what turns ask for.
Time passes only from one agenda item to the next, so a wait of thirty days takes as long as no wait.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from ._simulated import Instance
from ._workshop import Workshop
from .deterministic import moment
from .errors import (
    FailureDetails,
    InstanceExistsError,
    OrchestrationCancelledError,
    UnknownNameError,
    failure_from,
)
from .history import (
    AnyEvent,
    CancelRequested,
    EventRaised,
    EventSent,
    ExecutionResumed,
    ExecutionStarted,
    ExecutionSuspended,
    ExecutionTerminated,
    GroupScheduled,
    SubOrchestrationInstanceCompleted,
    SubOrchestrationInstanceCreated,
    SubOrchestrationInstanceFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from .registry import OrchestratorDefinition, Registry
from .turn import Cancelled, Completed, ContinuedAsNewOutcome, Failed, Terminated, Turn, Waiting

CONTROLS = (ExecutionSuspended, ExecutionResumed, CancelRequested, ExecutionTerminated)


class Simulator:
    """The agenda, the clock and the instances."""

    def __init__(
        self,
        registry: Registry,
        activities: Mapping[str, Callable[..., Any]],
        durations: Mapping[str, timedelta],
        start: int,
        most_turns: int,
    ) -> None:
        self.registry = registry
        self.workshop = Workshop(self, activities, durations)
        self.now = self.start_time = start
        self.most_turns, self.turns = most_turns, 0
        self.instances: dict[str, Instance] = {}
        self._agenda: list[tuple[int, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._ids = random.Random(0)  # execution ids need to differ, and tests to repeat

    # --- time --------------------------------------------------------------------------------------

    def at(self, due: int, action: Callable[[], object]) -> None:
        """Do something when it is this time, or now if that is past."""
        heapq.heappush(self._agenda, (max(due, self.now), next(self._numbers), action))

    def run(self, until: int | None) -> None:
        """Work through the agenda, at most to this time."""
        while self._agenda and (until is None or self._agenda[0][0] <= until):
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        if until is not None:
            self.now = max(self.now, until)

    def close(self) -> None:
        """Let go of every orchestrator that still waits."""
        for instance in self.instances.values():
            instance.live.close()

    # --- instances ---------------------------------------------------------------------------------

    def start(
        self, id: str, definition: OrchestratorDefinition, input: str | None,
        parent: tuple[Instance, int, str] | None = None, tags: Mapping[str, str] | None = None,
    ) -> Instance:  # fmt: skip
        """Create an instance and give it its first event."""
        instance = Instance(id, definition, parent)
        self.instances[id] = instance
        instance.created = self.now
        instance.begin(self._execution_id())
        instance.status = "Running"
        self.deliver(instance, self._started(instance, input, 0, dict(tags or {})))
        return instance

    def _started(
        self, instance: Instance, input: str | None, run: int, tags: dict[str, str]
    ) -> ExecutionStarted:
        return ExecutionStarted(
            at=self.now, execution=instance.execution, instance=instance.id, name=instance.definition.name,
            version=instance.definition.version, input=input, run=run, tags=tags,
            parent=instance.parent[0].id if instance.parent else "",
        )  # fmt: skip

    def deliver(self, instance: Instance, event: AnyEvent) -> None:
        """Put an outside event into the inbox; it is applied when its turn comes."""
        if instance.ended:
            return
        instance.inbox.append(event)
        self.at(self.now, lambda: self._pump(instance))

    def _pump(self, instance: Instance) -> None:
        """Apply what may be applied: everything, or while suspended only the controls."""
        while not instance.ended:
            ready = (
                i for i, e in enumerate(instance.inbox) if not instance.suspended or isinstance(e, CONTROLS)
            )
            index = next(ready, None)
            if index is None:
                return
            self._apply(instance, instance.inbox.pop(index))

    def _apply(self, instance: Instance, event: AnyEvent) -> None:
        self.turns += 1
        if self.turns > self.most_turns:
            raise RuntimeError(
                f"{self.turns} events and no end in sight at {moment(self.now)}; an eternal orchestrator "
                "needs until=timedelta(...), anything longer max_events=..."
            )
        turn = instance.live.advance([event])
        instance.history.extend(turn.events)
        if isinstance(turn.custom_status, str | None):
            instance.custom_status = turn.custom_status
        if turn.suspended is not None:
            instance.suspended = turn.suspended
            instance.status = "Suspended" if turn.suspended else "Running"
        for seq in turn.dissolved:
            self.workshop.dissolve(instance, seq)
        for seq in turn.dropped:
            self.workshop.drop(instance, seq)
        for seq in turn.closed:
            self._close(instance, seq)
        closed = {*turn.closed, *turn.dropped}
        for command in turn.events:
            if getattr(command, "seq", -1) not in closed:
                self._execute(instance, command)
        self._conclude(instance, turn)

    def _conclude(self, instance: Instance, turn: Turn) -> None:
        match turn.outcome:
            case Waiting():
                return
            case Completed(output):
                instance.output = output
                self._end(instance, "Completed")
            case Failed(failure):
                self._end(instance, "Failed", failure)
            case Cancelled(reason):
                error = OrchestrationCancelledError(reason or "it was cancelled")
                self._end(instance, "Cancelled", failure_from(error))
            case Terminated(reason):
                self._end(instance, "Terminated", FailureDetails("Terminated", reason or "it was terminated"))
            case ContinuedAsNewOutcome(text, _):
                self._continue(instance, text, turn.carried)

    def _continue(self, instance: Instance, text: str | None, carried: Sequence[AnyEvent]) -> None:
        first = instance.history[0]
        self._close_children(instance)
        instance.live.close()
        instance.begin(self._execution_id())
        tags = first.tags if isinstance(first, ExecutionStarted) else {}
        started = self._started(instance, text, len(instance.runs) - 1, tags)
        instance.inbox[:0] = [started, *carried]

    def _execution_id(self) -> str:
        return f"{self._ids.getrandbits(64):016x}"

    def _end(self, instance: Instance, status: str, failure: FailureDetails | None = None) -> None:
        instance.status, instance.failure, instance.ended_at = status, failure, self.now
        instance.steps.clear()
        instance.timers.clear()
        instance.live.close()
        self._close_children(instance, fate=status)
        if instance.parent is None:
            return
        parent, seq, execution = instance.parent
        if parent.execution != execution or parent.children.pop(seq, None) is None:
            return
        if failure is None:
            self.deliver(
                parent, SubOrchestrationInstanceCompleted(at=self.now, seq=seq, result=instance.output)
            )
        else:
            self.deliver(parent, SubOrchestrationInstanceFailed(at=self.now, seq=seq, failure=failure))

    def _close_children(self, instance: Instance, fate: str = "") -> None:
        for seq in list(instance.children):
            self._close(instance, seq, fate)

    def _close(self, instance: Instance, seq: int, fate: str = "") -> None:
        instance.steps.pop(seq, None)
        instance.timers.discard(seq)
        child, parent_close = instance.children.pop(seq, (None, "abandon"))
        if parent_close == "terminate" and fate == "Cancelled":
            parent_close = "cancel"  # what happens to the parent happens to the child
        if child is not None and parent_close == "terminate":
            self.deliver(child, ExecutionTerminated(at=self.now, reason="its parent ended"))
        elif child is not None and parent_close == "cancel":
            self.deliver(child, CancelRequested(at=self.now, reason="its parent ended"))

    # --- commands ----------------------------------------------------------------------------------

    def _execute(self, instance: Instance, command: AnyEvent) -> None:
        match command:
            case TaskScheduled():
                self.workshop.open_single(instance, command)
            case GroupScheduled():
                self.workshop.open_group(instance, command)
            case TimerCreated(seq=seq):
                instance.timers.add(seq)
                execution = instance.execution
                self.at(command.due, lambda: self._fire(instance, execution, seq))
            case EventSent():
                target = self.instances.get(command.instance)
                if target is not None:
                    self.deliver(target, EventRaised(at=self.now, name=command.name, input=command.input))
            case SubOrchestrationInstanceCreated():
                self._start_child(instance, command)
            case _:
                return

    def _fire(self, instance: Instance, execution: str, seq: int) -> None:
        if instance.execution == execution and seq in instance.timers:
            instance.timers.discard(seq)
            self.deliver(instance, TimerFired(at=self.now, seq=seq))

    def _start_child(self, instance: Instance, command: SubOrchestrationInstanceCreated) -> None:
        definition = self.registry.get(command.name, command.version)
        running = self.instances.get(command.instance)
        problem: Exception | None = None
        if definition is None:
            problem = UnknownNameError(
                f"no orchestrator is called {command.name!r} {command.version}".rstrip()
            )
        elif running is not None and not running.ended:
            problem = InstanceExistsError(f"an instance {command.instance!r} is running already")
        if definition is None or problem is not None:
            failure = failure_from(problem or UnknownNameError(command.name))
            event = SubOrchestrationInstanceFailed(at=self.now, seq=command.seq, failure=failure)
            if not command.detached:
                self.deliver(instance, event)
            return
        parent = None if command.detached else (instance, command.seq, instance.execution)
        child = self.start(command.instance, definition, command.input, parent, command.tags)
        if parent is not None:
            instance.children[command.seq] = (child, command.parent_close)
