"""Programs as data, and one interpreter for them in both author styles."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

from corpus import ADD, flaky_child
from hypothesis import strategies as st
from world import Program

from celeriac.orchestrations import (
    OrchestrationCancelledError,
    OrchestrationContext,
    RetryPolicy,
    Task,
    TaskCancelledError,
    TaskFailedError,
    as_completed,
    when_all,
    when_any,
)
from celeriac.orchestrations.registry import define

NAMES = st.sampled_from(["double", "odd", "boom", "echo"])
SMALL = st.integers(0, 3)
EVENT_NAMES = st.sampled_from(["a", "A", "b"])

LEAVES = st.one_of(
    st.tuples(st.just("call"), NAMES, SMALL),
    st.tuples(st.just("timer"), st.integers(-5, 50)),
    st.tuples(st.just("child"), st.sampled_from(["flaky", "other"]), st.booleans()),
    st.tuples(st.just("event"), EVENT_NAMES),
    st.tuples(st.just("event_timeout"), EVENT_NAMES, st.integers(0, 20), st.booleans()),
    st.tuples(st.just("map"), NAMES, SMALL, st.booleans()),
)


def _groups(tasks: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(tasks, min_size=0, max_size=4)
    return st.one_of(
        st.tuples(st.just("all"), some, st.sampled_from(["plain", "values", "fast"])),
        st.tuples(st.just("any"), st.lists(tasks, min_size=1, max_size=4)),
    )


TASKS = st.recursive(LEAVES, _groups, max_leaves=6)


def _blocks(statements: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    block = st.lists(statements, max_size=4)
    return st.one_of(
        st.tuples(st.just("loop"), st.integers(1, 3), block),
        st.tuples(st.just("try"), block, block),
        st.tuples(st.just("finally"), block, block),
        st.tuples(st.just("if_done"), st.integers(0, 5), block),
    )


SIMPLE = st.one_of(
    st.tuples(st.just("await"), TASKS),
    st.tuples(st.just("start"), TASKS),
    st.tuples(st.just("await_kept"), st.integers(0, 5)),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
    st.tuples(st.just("completed"), st.lists(LEAVES, max_size=4)),
    st.tuples(st.just("drain")),
    st.tuples(st.just("send"), SMALL),
    st.tuples(st.just("status"), SMALL),
    st.tuples(st.just("detached"), SMALL),
    st.tuples(st.just("patched"), st.sampled_from(["p", "q"])),
    st.tuples(st.just("uuid")),
)
STATEMENTS = st.recursive(SIMPLE, _blocks, max_leaves=8)
PROGRAM = st.lists(STATEMENTS, min_size=1, max_size=6)
EVENTS = st.lists(st.tuples(EVENT_NAMES, SMALL), max_size=5)


def make(ctx: OrchestrationContext, task: Any) -> Task[Any]:
    """The task that a piece of data describes."""
    match task:
        case ("call", name, number):
            return ctx.call_activity(name, number)
        case ("timer", seconds):
            return ctx.create_timer(timedelta(seconds=seconds))
        case ("child", name, again):
            return ctx.call_sub_orchestrator(
                name, retry=RetryPolicy(timedelta(seconds=1), 3) if again else None
            )
        case ("event", name):
            return ctx.wait_for_external_event(name)
        case ("event_timeout", name, seconds, True):
            return ctx.wait_for_external_event(name, timeout=seconds, default="late")
        case ("event_timeout", name, seconds, False):
            return ctx.wait_for_external_event(name, timeout=seconds)
        case ("map", name, size, values):
            return ctx.map(name, range(size), return_exceptions=values)
        case ("all", parts, how):
            tasks = [make(ctx, part) for part in parts]
            return when_all(tasks, return_exceptions=how == "values", fail_fast=how == "fast")
        case ("any", parts):
            return when_any([make(ctx, part) for part in parts])
    raise AssertionError(task)


class Interpreter:
    """Runs statements; a generator, which `as_async` turns into a coroutine."""

    def __init__(self, ctx: OrchestrationContext) -> None:
        self.ctx, self.kept, self.log = ctx, list[Task[Any]](), list[Any]()

    def note(self, value: Any) -> None:
        if isinstance(value, Task):
            value = ["winner", value.is_failed]
        elif isinstance(value, Exception):
            value = type(value).__name__
        elif isinstance(value, list):
            value = len(value)
        self.log.append([value, self.ctx.current_utc_datetime.timestamp()])

    def wait(self, task: Task[Any]) -> Generator[Any, Any, None]:
        try:
            self.note((yield task))
        except (TaskFailedError, TaskCancelledError, TimeoutError) as error:
            self.note(error)
            if len(self.log) % 3 == 0:
                raise

    def run(self, statements: list[Any]) -> Generator[Any, Any, None]:
        for statement in statements:
            yield from self.step(statement)

    def step(self, statement: Any) -> Generator[Any, Any, None]:
        ctx = self.ctx
        match statement:
            case ("await", task):
                yield from self.wait(make(ctx, task))
            case ("start", task):
                self.kept.append(make(ctx, task))
            case ("await_kept", index) if self.kept:
                yield from self.wait(self.kept[index % len(self.kept)])
            case ("cancel", index) if self.kept:
                self.kept[index % len(self.kept)].cancel()
            case ("completed", parts):
                for place in as_completed({make(ctx, part) for part in parts}):
                    yield from self.wait(place)
            case ("drain",):
                while pending := [task for task in self.kept if not task.is_completed]:
                    yield when_any(pending)
            case _:
                yield from self.effect(statement)

    def effect(self, statement: Any) -> Generator[Any, Any, None]:
        ctx = self.ctx
        match statement:
            case ("send", number):
                ctx.send_event("other", "e", number)
            case ("status", number):
                ctx.set_custom_status(number)
            case ("detached", number):
                self.note(ctx.start_orchestration("audit", number))
            case ("patched", change):
                self.note(ctx.patched(change))
            case ("uuid",):
                yield from self.wait(ctx.call_activity("echo", ctx.new_uuid(), ctx.random().random()))
            case _:
                yield from self.block(statement)

    def block(self, statement: Any) -> Generator[Any, Any, None]:
        match statement:
            case ("loop", times, block):
                for _ in range(times):
                    yield from self.run(block)
            case ("try", block, handler):
                try:
                    yield from self.run(block)
                except (TaskFailedError, TimeoutError, OrchestrationCancelledError) as error:
                    self.note(error)
                    yield from self.run(handler)
            case ("finally", block, cleaning):
                try:
                    yield from self.run(block)
                finally:
                    yield from self.run(cleaning)
            case ("if_done", index, block) if self.kept and self.kept[index % len(self.kept)].is_completed:
                yield from self.run(block)
            case _:
                pass


def programs(statements: list[Any], events: list[Any], cancel: bool) -> tuple[Program, Program]:
    """The same statements as a generator and as an `async def` orchestrator."""

    def generated(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        interpreter = Interpreter(ctx)
        yield from interpreter.run(statements)
        return interpreter.log

    async def native(ctx: OrchestrationContext) -> Any:
        code = generated(ctx)
        push: Any = code.send
        value: Any = None
        while True:
            try:
                task = push(value)
            except StopIteration as stop:
                return stop.value
            try:
                push, value = code.send, await task
            except (Exception, GeneratorExit) as error:
                if isinstance(error, GeneratorExit):
                    code.close()
                    raise
                push, value = code.throw, error

    children: dict[str, Any] = {"flaky": flaky_child, "other": lambda *_: "child"}
    both = (define(generated, name="generated"), define(native, name="generated"))
    first, second = (
        Program(definition, activities=ADD, children=children, events=tuple(events), cancel=cancel)
        for definition in both
    )
    return first, second
