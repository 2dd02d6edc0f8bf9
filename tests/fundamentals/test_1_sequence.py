"""Chaining: an orchestrator calls one activity after another.

Read these files in order; each shows one idea.

`testing.run` runs an orchestrator with its activities in this process: no Redis, no Celery, virtual time.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from celeriac.activities import activity
from celeriac.orchestrations import OrchestrationContext, Task, orchestrator, testing


@activity
def say_hello(city: str) -> str:
    return f"Hello {city}!"


@orchestrator
async def hello_cities(ctx: OrchestrationContext) -> list[str]:
    tokyo = await ctx.call_activity(say_hello, "Tokyo")
    seattle = await ctx.call_activity(say_hello, "Seattle")
    london = await ctx.call_activity(say_hello, "London")
    return [tokyo, seattle, london]


def test_hello_cities() -> None:
    result = testing.run(hello_cities)
    assert result.status == "Completed"
    assert result.output == ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]


# The same as a generator: `yield` a task where the other way awaits it.


@orchestrator
def hello_generator(ctx: OrchestrationContext, city: str) -> Generator[Task[Any], Any, str]:
    greeting = yield ctx.call_activity(say_hello, city)
    return greeting.upper()


def test_hello_generator() -> None:
    assert testing.run(hello_generator, "Lima").output == "HELLO LIMA!"


# Every call stands in the history. After a crash, another process repeats the code with these results.


def test_the_history() -> None:
    kinds = [type(event).__name__ for event in testing.run(hello_generator, "Lima").history]
    assert kinds == ["ExecutionStarted", "TaskScheduled", "TaskCompleted", "ExecutionCompleted"]


# A test may put something else in the place of an activity.


def test_with_a_replacement() -> None:
    result = testing.run(hello_generator, "Lima", activities={"say_hello": lambda city: f"hola {city}"})
    assert result.output == "HOLA LIMA"
