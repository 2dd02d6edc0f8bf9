"""The author sees every attempt of an activity that failed for good."""

from __future__ import annotations

from typing import Any

from celeriac.orchestrations import TaskFailedError, orchestrator
from celeriac.orchestrations.errors import Attempt, FailureDetails
from celeriac.orchestrations.history import ExecutionStarted, TaskFailed
from celeriac.orchestrations.recording import Recording
from celeriac.orchestrations.registry import Registry
from celeriac.orchestrations.replay import replay
from celeriac.orchestrations.turn import Completed


def test_the_attempts_recorded_beside_a_failure_are_in_its_details() -> None:
    @orchestrator(registry=Registry())
    async def flow(ctx: Any) -> list[str]:
        try:
            await ctx.call_activity("act")
        except TaskFailedError as error:
            return [attempt.message for attempt in error.details.attempts]
        return []

    attempts = tuple(Attempt(number, number, "builtins.OSError", f"try {number}") for number in (1, 2))
    inbox = [
        ExecutionStarted(execution="a" * 16, instance="i", name="flow", at=1),
        TaskFailed(seq=0, failure=FailureDetails("builtins.OSError", "try 3"), attempts=attempts, at=2),
    ]
    turn = replay(flow.definition, [], inbox, Recording([]))
    assert isinstance(turn.outcome, Completed)
    assert turn.outcome.output == '["try 1","try 2"]'
