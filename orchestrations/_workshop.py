"""Where the simulator of `testing` runs activities: attempts, retries and fan-outs on virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol

import msgspec

from ._hosting import AttemptInfo, host
from ._simulated import ActivityCall, Group, Instance, Step
from .commands import GROUP_PARTS
from .deterministic import moment
from .errors import Attempt, FailureDetails, RetryAfter, UnknownActivityError, failure_from
from .history import (
    AnyEvent,
    GroupCompleted,
    GroupScheduled,
    PartOutcome,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
)
from .retry import RetryContext, RetryPolicy, decide

_MS = timedelta(milliseconds=1)


class World(Protocol):
    """What the workshop needs of the simulator."""

    now: int
    start_time: int

    def at(self, due: int, action: Callable[[], object]) -> None:
        """Do something at this time."""
        ...

    def deliver(self, instance: Instance, event: AnyEvent) -> None:
        """Put an event into an inbox."""
        ...


class Workshop:
    """Runs activities, or what stands in for them."""

    def __init__(
        self,
        world: World,
        replacements: Mapping[str, Callable[..., Any]],
        durations: Mapping[str, timedelta],
    ) -> None:
        self._world, self._replacements, self._durations = world, replacements, durations
        self.calls: list[ActivityCall] = []

    def open_single(self, instance: Instance, command: TaskScheduled) -> None:
        """Begin one activity."""
        step = Step(command.seq, command.name, command.input, command.options, self._world.now)
        instance.steps[step.seq] = step
        self.begin(instance, step)

    def open_group(self, instance: Instance, command: GroupScheduled) -> None:
        """Begin a fan-out: all of it, or as many as its window lets."""
        steps = [
            Step(
                command.seq + index, part.name, part.input, command.options[part.options], self._world.now,
                group=command.seq, index=index,
            )
            for index, part in enumerate(GROUP_PARTS.decode(command.parts))
        ]  # fmt: skip
        width = command.window or len(steps)
        group = Group(steps, [None] * len(steps), list(range(len(steps)))[width:])
        instance.groups[command.seq] = group
        instance.steps.update((step.seq, step) for step in steps)
        for step in steps[:width]:
            self.begin(instance, step)

    def begin(self, instance: Instance, step: Step, delay: int = 0) -> None:
        """Plan an attempt of this step."""
        execution = instance.execution
        self._world.at(self._world.now + delay, lambda: self._attempt(instance, execution, step))

    def _attempt(self, instance: Instance, execution: str, step: Step) -> None:
        """Run the function now; its outcome arrives when its duration has passed."""

        def is_open() -> bool:
            return instance.execution == execution and instance.steps.get(step.seq) is step

        if not is_open():
            return
        limit, took = (
            step.options.timeout,
            self._durations.get(step.name, timedelta()) // timedelta(milliseconds=1),
        )
        info = AttemptInfo(
            step.name, instance.id, execution, step.seq, step.attempt,
            moment(self._world.now + limit) if limit else None, lambda: not is_open(),
        )  # fmt: skip
        result, error = None, None
        try:
            if limit and took > limit:
                took = limit
                raise TimeoutError(
                    f"activity '{step.name}' was not done after {timedelta(milliseconds=limit)}"
                )
            result = host()(info, step.input, self._replacements.get(step.name))
        except Exception as raised:  # noqa: BLE001 - an activity may raise anything; it becomes the outcome
            error = raised
        failure = None if error is None else failure_from(error)
        asked = error.delay if isinstance(error, RetryAfter) else None
        self.calls.append(
            ActivityCall(
                step.name,
                instance.id,
                step.attempt,
                timedelta(milliseconds=self._world.now - self._world.start_time),
                failure,
            )
        )
        self._world.at(
            self._world.now + took,
            lambda: is_open() and self._outcome(instance, step, result, failure, asked),
        )

    def _outcome(
        self, instance: Instance, step: Step, result: str | None, failure: FailureDetails | None,
        asked: timedelta | None,
    ) -> None:  # fmt: skip
        if failure is not None:
            delay = self._retry_delay(instance, step, failure, asked)
            attempt = Attempt(step.attempt, self._world.now, failure.error_type, failure.message, delay or 0)
            if delay is not None:
                step.failed.append(attempt)
                step.attempt += 1
                self.begin(instance, step, delay)
                return
            failure = msgspec.structs.replace(failure, attempts=(*step.failed, attempt)[-10:])
        del instance.steps[step.seq]
        outcome = PartOutcome(result, failure, tuple(step.failed[-10:]))
        if step.group is None:
            self._world.deliver(instance, self._single(step.seq, outcome))
        else:
            self._join(instance, step, outcome)

    def _retry_delay(
        self, instance: Instance, step: Step, failure: FailureDetails, asked: timedelta | None
    ) -> int | None:
        if failure.is_caused_by(UnknownActivityError):
            return None
        policy = RetryPolicy.from_json(step.options.retry) if step.options.retry else None
        handler, verdict = policy.load_handler() if policy else None, None
        if handler is not None:
            elapsed = timedelta(milliseconds=self._world.now - step.first_at)
            verdict = handler(RetryContext(step.attempt, failure, elapsed, instance.id))
        seed = f"{instance.execution}:{step.seq}"
        return decide(policy, failure, step.attempt, step.first_at, self._world.now, seed, asked, verdict)

    def _single(self, seq: int, outcome: PartOutcome) -> TaskCompleted | TaskFailed:
        if outcome.failure is None:
            return TaskCompleted(
                at=self._world.now, seq=seq, result=outcome.result, attempts=outcome.attempts
            )
        return TaskFailed(at=self._world.now, seq=seq, failure=outcome.failure, attempts=outcome.attempts)

    def _join(self, instance: Instance, step: Step, outcome: PartOutcome) -> None:
        seq = step.group
        group = instance.groups.get(seq) if seq is not None else None
        if seq is None or group is None:  # dissolved
            self._world.deliver(instance, self._single(step.seq, outcome))
            return
        group.outcomes[step.index] = outcome
        group.done += 1
        if group.waiting:
            self.begin(instance, group.parts[group.waiting.pop(0)])
        if group.done == len(group.parts):
            del instance.groups[seq]
            outcomes = [each for each in group.outcomes if each is not None]
            instance.outcomes[-1][seq] = outcomes
            failed = sum(each.failure is not None for each in outcomes)
            self._world.deliver(instance, GroupCompleted(at=self._world.now, seq=seq, failed=failed))

    def dissolve(self, instance: Instance, seq: int) -> None:
        """From now on each part reports for itself; those that are in already do it now."""
        group = instance.groups.pop(seq, None)
        if group is None:
            return
        for step, outcome in zip(group.parts, group.outcomes, strict=True):
            if outcome is not None:
                self._world.deliver(instance, self._single(step.seq, outcome))
        for index in group.waiting:
            self.begin(instance, group.parts[index])

    def drop(self, instance: Instance, seq: int) -> None:
        """The whole fan-out was cancelled: what runs reports to nobody, what waits is never begun."""
        group = instance.groups.pop(seq, None)
        for step in group.parts if group is not None else ():
            instance.steps.pop(step.seq, None)
