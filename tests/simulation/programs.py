"""Random programs whose result does not depend on the order in which things happen, and what they run on.

A program is the JSON input of one orchestrator, which interprets it: activities that succeed, fail, fail a
few times first or are given up while they run; timers, events, children, groups, maps, races (whose winner
is not told), continue-as-new; and an ending: it completes, fails, or waits until it is cancelled or
terminated. The expected result is that of `celeriac.orchestrations.testing` on the same program: one event
after the other, nothing ever lost.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import timedelta
from typing import Any

from celeriac.activities import ActivityContext, ActivityRegistry, activity
from celeriac.orchestrations import (
    OrchestrationCancelledError,
    RetryPolicy,
    Task,
    TaskFailedError,
    testing,
    when_all,
    when_any,
)
from celeriac.orchestrations.registry import Registry, orchestrator

REGISTRY, ACTIVITIES = Registry(), ActivityRegistry()
EFFECTS: list[tuple[str, ...]] = []
ATTEMPTS = 3
NAMES = ("red", "green")

flow: Any = orchestrator(registry=REGISTRY)
act: Any = activity(registry=ACTIVITIES)


class Flaky(Exception):
    """Comes and goes."""


class Final(Exception):
    """Is not tried again."""


class Sleeper:
    """How an activity takes its time; a simulation puts its own clock here."""

    sleep: Any = staticmethod(lambda seconds: None)
    forgets = False  # Redis may forget that an attempt was given up


def _did(context: ActivityContext, name: str, value: Any) -> None:
    attempt = f"{context.idempotency_key}:{context.attempt}"
    EFFECTS.append((context.instance_id, name, str(value), str(context.attempt), attempt))


@act
def double(n: int, context: ActivityContext) -> int:
    _did(context, "double", n)
    return 2 * n


@act
def slow(n: int, context: ActivityContext) -> int:
    _did(context, "slow", n)
    Sleeper.sleep(n)
    context.heartbeat()
    return n


@activity(registry=ACTIVITIES, retry=RetryPolicy(timedelta(seconds=1), ATTEMPTS, backoff_coefficient=2.0))
def flaky(failures: int, context: ActivityContext) -> str:
    _did(context, "flaky", failures)
    if context.attempt <= failures:
        raise Flaky(f"attempt {context.attempt} of {failures}")
    return "at last"


@activity(
    registry=ACTIVITIES,
    retry=RetryPolicy(timedelta(seconds=1), 50),
    heartbeat=timedelta(seconds=3),
    schedule_to_start=timedelta(seconds=4),
)
def late(n: int, context: ActivityContext) -> str:
    """Its first attempt is given up while it still runs, and fails later; others may be, on a slow worker."""
    _did(context, "late", n)
    if context.attempt == 1:
        Sleeper.sleep(n)
        raise Flaky("too late to count")
    for _ in range(2):
        Sleeper.sleep(2)
        context.heartbeat()
    return "better late"


@activity(
    registry=ACTIVITIES,
    retry=RetryPolicy(timedelta(seconds=1), 50, do_not_retry_on=(Final,)),
    heartbeat=timedelta(seconds=3),
)
def stubborn(n: int, context: ActivityContext) -> str:
    """Two attempts are given up while they run on. What they say then counts for nothing, however bad."""
    _did(context, "stubborn", n)
    if context.attempt <= 2:
        Sleeper.sleep(n)
        later = {f"{context.idempotency_key}:{number}" for number in range(context.attempt + 1, 50)}
        if not Sleeper.forgets and any(effect[-1] in later for effect in EFFECTS):
            raise Final("of an attempt that was given up")
        raise Flaky("too late to count")
    return "had its way"


@act
def pick(n: int, context: ActivityContext) -> int:
    _did(context, "pick", n)
    if n % 3 == 2:
        raise ValueError(f"not {n}")
    return n


def _shown(value: Any) -> Any:
    """A result as JSON, without telling which task won a race."""
    if isinstance(value, list):
        return [_shown(each) for each in value]
    if isinstance(value, Task):
        return "raced"
    return type(value).__name__ if isinstance(value, Exception) else value


class Interpreter:
    """Runs the statements of one program."""

    def __init__(self, ctx: Any, log: list[Any]) -> None:
        self.ctx, self.log, self.kept = ctx, log, list[Task[Any]]()

    def make(self, task: list[Any]) -> Task[Any]:
        """The task that a piece of data describes."""
        ctx = self.ctx
        match task:
            case [("double" | "slow" | "flaky" | "late" | "stubborn" | "pick") as name, n]:
                return ctx.call_activity(ACTIVITIES.get(name), n)
            case ["timer", seconds]:
                return ctx.create_timer(timedelta(seconds=seconds))
            case ["event", name]:
                return ctx.wait_for_external_event(name)
            case ["child", spec]:
                return ctx.call_sub_orchestrator("program", spec)
            case ["map", size, parallel]:
                return ctx.map(pick, range(size), parallel or None, return_exceptions=True)
            case ["all", parts]:
                return when_all([self.make(part) for part in parts])
            case ["race", first, second]:
                return when_any([self.make(first), self.make(second)])
        raise AssertionError(task)

    async def wait(self, task: Task[Any]) -> None:
        try:
            value = await task
        except TaskFailedError as error:
            value = ["failed", error.details.error_type]
        self.log.append(_shown(value))

    async def block(self, statements: list[Any]) -> None:
        for statement in statements:
            match statement:
                case ["await", task]:
                    await self.wait(self.make(task))
                case ["keep", task]:
                    self.kept.append(self.make(task))
                case ["status", n]:
                    self.ctx.set_custom_status(n)
                case ["spawn", spec]:
                    self.ctx.start_orchestration("program", spec)
                case ["loop", times, block]:
                    for _ in range(times):
                        await self.block(block)
                case _:
                    raise AssertionError(statement)
        for task in self.kept:
            await self.wait(task)
        self.kept = []


@flow
async def program(ctx: Any, spec: dict[str, Any]) -> Any:
    """Interpret."""
    run = Interpreter(ctx, list(spec["log"]))
    try:
        await run.block(spec["body"])
        if spec["rounds"]:
            ctx.continue_as_new({**spec, "rounds": spec["rounds"] - 1, "log": run.log})
        if spec["ending"] in ("cancel", "terminate"):
            if spec.get("below"):  # a child that ends only with its parent
                await ctx.call_sub_orchestrator("program", {**spec, "body": [], "below": False})
            await ctx.wait_for_external_event("never")
    except OrchestrationCancelledError:
        await ctx.call_activity(double, -1)  # compensation
        raise
    if spec["ending"] == "fail":
        raise ValueError("as told")
    return run.log


class Maker:
    """Makes random programs."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(f"program {seed}")

    def program(self) -> dict[str, Any]:
        """A program to start."""
        ending = self.dice.choice(["complete"] * 6 + ["fail", "cancel", "cancel", "terminate", "terminate"])
        rounds = self.dice.choice((0, 0, 0, 1, 2))
        relay = self.dice.random() < 0.12
        return {
            "body": self._relay() if relay else self._block(self.dice.randint(1, 5), 2),
            "rounds": self.dice.randint(3, 8) if relay else rounds,
            "ending": ending,
            "below": self.dice.random() < 0.7,
            "log": [],
        }

    def _relay(self) -> list[Any]:
        """A short run: the next one has begun when its loser's outcome and the next event come."""
        race = ["race", ["slow", self.dice.randint(0, 3)], ["timer", self.dice.randint(0, 3)]]
        return [["await", race], ["await", ["double", 3]], ["await", ["event", self.dice.choice(NAMES)]]]

    def _block(self, size: int, depth: int) -> list[Any]:
        return [self._statement(depth) for _ in range(size)]

    def _statement(self, depth: int) -> list[Any]:
        kinds = ("await", "await", "await", "keep", "status", "loop")
        kind = "spawn" if self.dice.random() < 0.08 else self.dice.choice(kinds)
        if kind == "status":
            return ["status", self.dice.randint(0, 9)]
        if kind == "spawn":
            return ["spawn", self._child()] if depth == 2 else ["status", 0]
        if kind == "loop" and depth:
            return ["loop", self.dice.randint(1, 2), self._block(2, 0)]
        return ["keep" if kind == "keep" else "await", self._task(depth)]

    def _task(self, depth: int) -> list[Any]:
        kind = self.dice.choice(
            (
                "double",
                "double",
                "slow",
                "flaky",
                "late",
                "stubborn",
                "pick",
                "timer",
                "event",
                "map",
                "all",
                "all",
                "race",
                "child",
            )
        )
        if not depth and kind in ("all", "race", "child"):
            kind = "double"
        match kind:
            case "flaky":
                return ["flaky", self.dice.randint(0, ATTEMPTS)]
            case "slow":
                return ["slow", self.dice.choice((0, 1, 14))]
            case "late":
                return ["late", self.dice.choice((1, 4, 6, 9))]
            case "stubborn":
                return ["stubborn", self.dice.choice((6, 9, 14))]
            case "timer":
                return ["timer", self.dice.randint(0, 20)]
            case "event":
                return ["event", self.dice.choice(NAMES)]
            case "map":
                return ["map", self.dice.randint(0, 6), self.dice.choice((0, 2))]
            case "all":
                return ["all", [self._task(depth - 1) for _ in range(self.dice.choice((0, 1, 3, 5, 9)))]]
            case "race":
                return ["race", ["slow", self.dice.randint(0, 3)], ["timer", self.dice.randint(0, 3)]]
            case "child":
                return ["child", self._child()]
            case _:
                return [kind, self.dice.randint(0, 9)]

    def _child(self) -> dict[str, Any]:
        body = [self._statement(0) for _ in range(self.dice.randint(0, 2))]
        body = [s for s in body if s[0] in ("status", "spawn") or s[1][0] != "event"]
        ending = self.dice.choice(("complete", "complete", "fail"))
        return {"body": body, "rounds": self.dice.choice((0, 0, 1)), "ending": ending, "log": []}


def has_children(spec: dict[str, Any]) -> bool:
    """Whether it starts others."""
    body = json.dumps(spec["body"])
    return (
        '"child"' in body
        or '"spawn"' in body
        or (spec["ending"] in ("cancel", "terminate") and spec["below"])
    )


def events_of(spec: dict[str, Any]) -> list[str]:
    """The names of the events that a program waits for, each as often as it does."""

    def count(piece: Any) -> Counter[str]:
        if not isinstance(piece, list) or not piece:
            return Counter()
        if piece[0] == "event":
            return Counter({piece[1]: 1})
        inner: Counter[str] = sum((count(part) for part in piece), Counter())
        return Counter({k: n * piece[1] for k, n in inner.items()}) if piece[0] == "loop" else inner

    needed = count(spec["body"])
    return [name for name in NAMES for _ in range(needed[name] * (spec["rounds"] + 1))]


def expected(spec: dict[str, Any], instance: str, *, numbered: bool) -> testing.TestResult:
    """What comes of a program when one thing happens after the other.

    `numbered`: each event has a value of its own.
    """
    hour = timedelta(hours=1)
    happening = [testing.event(name, i * numbered, after=i * hour) for i, name in enumerate(events_of(spec))]
    last = len(happening) * hour + timedelta(hours=5)
    if spec["ending"] == "cancel":
        happening.append(testing.cancel("enough", after=last))
    elif spec["ending"] == "terminate":
        happening.append(testing.terminate("enough", after=last))
    return testing.run(
        "program", spec, events=happening, registry=REGISTRY, activities=_plain(), instance_id=instance
    )


def _plain() -> dict[str, Any]:
    """The activities themselves, which `testing` looks for elsewhere."""
    return {name: ACTIVITIES.get(name) for name in ACTIVITIES.names()}
