"""Tasks and groups: order of ends, errors, cancelling, and what they leave behind."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from world import Boom, Live, failure_of, kinds

from celeriac.orchestrations import (
    OrchestrationContext,
    Task,
    TaskCancelledError,
    TaskFailedError,
    as_completed,
    when_all,
    when_any,
)
from celeriac.orchestrations.history import (
    AnyEvent,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TaskFailed,
)

Ctx = OrchestrationContext


def failed(seq: int, text: str) -> TaskFailed:
    return TaskFailed(seq=seq, failure=failure_of(Boom(text)))


def test_groups_of_finished_tasks_know_the_order_of_the_ends() -> None:
    async def late(ctx: Ctx) -> Any:
        a, b, c = (ctx.call_activity(name) for name in "abc")
        await ctx.wait_for_external_event("go")
        winner = await when_any([a, b, c])
        with pytest.raises(TaskFailedError, match="second"):
            await when_all([a, b, c, ctx.create_timer(timedelta(1))], fail_fast=True)
        order = [getattr(task, "name", "") async for task in as_completed([a, b, c])]
        return [winner is b, order]

    live = Live(late)
    live.start()
    live.done(1)
    live.apply(failed(0, "second"), failed(2, "third"))
    live.raised("go")
    assert live.output == [True, ["b", "a", "c"]]


def test_a_task_tells_how_it_stands() -> None:
    async def looks(ctx: Ctx) -> Any:
        good, bad, given_up = (ctx.call_activity(name) for name in ("good", "bad", "given up"))
        assert not good.is_completed
        assert good.exception is None
        with pytest.raises(RuntimeError, match=r"good #0, open.*await it first"):
            _ = good.result
        await when_any([when_all([good, bad]), ctx.wait_for_external_event("x")])
        assert given_up.cancel()
        assert not given_up.cancel()
        assert not good.cancel()
        assert (good.is_completed, good.is_failed, good.result, good.exception) == (True, False, 5, None)
        assert (bad.is_completed, bad.is_failed) == (True, True)
        assert isinstance(bad.exception, TaskFailedError)
        assert isinstance(given_up.exception, TaskCancelledError)
        with pytest.raises(TaskCancelledError, match="given up #2"):
            await given_up
        return [await good, await good, repr(good), repr(bad)]

    live = Live(looks)
    live.start()
    live.done(0, 5)
    live.apply(failed(1, "no"))
    assert live.output == [5, 5, "<good #0, completed>", "<bad #1, failed>"]


def test_a_failure_carries_name_number_and_cause() -> None:
    async def fails(ctx: Ctx) -> Any:
        try:
            await ctx.call_sub_orchestrator("child")
        except TaskFailedError as error:
            return [error.name, error.seq, error.is_caused_by(Boom), error.is_caused_by(KeyError), str(error)]

    live = Live(fails)
    live.start()
    live.apply(SubOrchestrationInstanceFailed(seq=0, failure=failure_of(Boom("inside"))))
    assert live.output[:4] == ["child", 0, True, False]
    assert "inside" in live.output[4]


def test_a_result_that_does_not_fit_is_named_where_it_is_awaited() -> None:
    class Reference:
        name, options = (
            "typed",
            __import__("celeriac.orchestrations.history", fromlist=["x"]).ActivityOptions(),
        )

        @staticmethod
        def function() -> int: ...

    async def reads(ctx: Ctx) -> Any:
        reference: Any = Reference
        return await ctx.call_activity(reference)

    live = Live(reads)
    live.start()
    live.done(0, "text")
    assert live.failure.error_type.endswith("CodecError")


def test_what_is_taken_back_in_its_step_leaves_no_trace() -> None:
    async def changes_its_mind(ctx: Ctx) -> None:
        tasks: list[Task[Any]] = [
            ctx.call_activity("a"), ctx.create_timer(timedelta(1)), ctx.call_sub_orchestrator("c"),
            ctx.map("m", [1, 2]),
        ]  # fmt: skip
        when_all(tasks).cancel()
        assert all(isinstance(task.exception, TaskCancelledError) for task in tasks)
        await ctx.call_activity("b")

    live = Live(changes_its_mind)
    turn = live.start()
    assert kinds(turn) == ["ExecutionStarted", "TaskScheduled"]
    assert (turn.closed, turn.dissolved, turn.dropped) == ((), (), ())
    assert live.done(0).events == []
    live.done(5)
    assert live.execution.ended


def test_a_lasting_task_keeps_no_trace_of_races_it_lost() -> None:
    lasting: list[Task[Any]] = []

    async def races(ctx: Ctx) -> None:
        lasting.append(ctx.call_activity("lasting"))
        while True:
            await when_any([lasting[0], ctx.call_activity("a")])

    live = Live(races)
    live.start()
    for seq in range(1, 200):
        live.done(seq)
    assert len(lasting[0]._groups or ()) == 1
    assert len(live.execution._run.open) == 2


def test_groups_nest_deeper_than_the_stack_when_they_finish() -> None:
    async def nests(ctx: Ctx) -> str:
        task: Task[Any] = ctx.call_activity("a")
        for _ in range(5000):
            task = when_any([task])
        await task
        return "done"

    live = Live(nests)
    live.start()
    live.done(0)
    assert live.output == "done"


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (lambda _: when_any([]), "when_any of no tasks"),
        (lambda _: when_all([], return_exceptions=True, fail_fast=True), "exclude each other"),
        (lambda ctx: when_all(ctx.call_activity("a")), "takes a list of tasks"),
        (lambda _: as_completed(5), "takes a list of tasks"),  # type: ignore[arg-type]  # the mistake
        (lambda _: when_any(["a"]), "item 0 is no task but str"),  # type: ignore[list-item]  # the mistake
    ],
)
def test_groups_of_something_else_are_refused(group: Any, words: str) -> None:
    async def wrong(ctx: Ctx) -> None:
        await group(ctx)

    live = Live(wrong)
    live.start()
    assert words in live.failure.message


def test_empty_groups_are_done_at_once() -> None:
    async def empty(ctx: Ctx) -> Any:
        rest = [task async for task in as_completed([])]
        return [await when_all([]), await when_all([when_all([])]), await ctx.map("a", []), rest]

    live = Live(empty)
    assert kinds(live.start()) == ["ExecutionStarted", "ExecutionCompleted"]
    assert live.output == [[], [[]], [], []]


def test_a_set_of_tasks_has_an_order() -> None:
    async def sets(ctx: Ctx) -> Any:
        tasks = [ctx.call_activity(str(n)) for n in range(50)]
        results = await when_all({*reversed(tasks)})
        assert list({*tasks}) == sorted({*tasks}, key=hash)
        return results

    live = Live(sets)
    live.start()
    live.group(0, *range(50))
    assert live.output == list(range(50))


def test_places_can_be_taken_ahead_and_awaited_in_any_order() -> None:
    async def ahead(ctx: Ctx) -> Any:
        ctx.create_timer(timedelta(1))
        places = list(as_completed([ctx.call_activity(name) for name in "abc"]))
        last = await places[2]
        results = await when_all(places[:2], return_exceptions=True)
        return [last, [r if isinstance(r, str) else type(r).__name__ for r in results]]

    live = Live(ahead)
    live.start()
    events: list[AnyEvent] = [
        TaskCompleted(seq=3, result='"c"'),
        failed(1, "a"),
        TaskCompleted(seq=2, result='"b"'),
    ]
    live.apply(*events)
    assert live.output == ["b", ["c", "TaskFailedError"]]
