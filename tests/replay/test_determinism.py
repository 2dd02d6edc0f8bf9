"""Code that does something else than recorded is caught where it does, and what may change may change."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from corpus_ends import PROGRAMS
from world import Live, Program, World

from celeriac.orchestrations import NonDeterminismError, OrchestrationContext, when_all
from celeriac.orchestrations.history import (
    OUTSIDE,
    ActivityOptions,
    AnyEvent,
    CustomStatusSet,
    Event,
    GroupScheduled,
    PatchMarker,
    TaskScheduled,
    TimerCreated,
)
from celeriac.orchestrations.registry import define
from celeriac.orchestrations.replay import Execution, replay

Ctx = OrchestrationContext
FREE = (CustomStatusSet, PatchMarker)


def mutations(history: list[AnyEvent], at: int) -> dict[str, list[AnyEvent]]:
    """Histories that other code would have recorded, changed at the command `at`."""
    command: Event = history[at]
    found = {
        "missing": [*history[:at], *history[at + 1 :]],
        "twice": [*history[: at + 1], *history[at:]],
        "other kind": [*history[:at], TimerCreated(at=command.at, seq=77, due=1), *history[at + 1 :]],
    }
    for field in ("name", "seq", "instance", "due", "size", "input"):
        if not hasattr(command, field):
            continue
        value = getattr(command, field)
        other = '[["other"],{}]' if field == "input" else value + 1 if isinstance(value, int) else f"{value}!"
        changed = msgspec.structs.replace(command, **{field: other})
        found[field] = [*history[:at], changed, *history[at + 1 :]]
    if isinstance(command, GroupScheduled):
        parts = command.parts[:2] + command.parts[2:].replace("[[", "[[9,", 1)
        found["parts"] = [*history[:at], msgspec.structs.replace(command, parts=parts), *history[at + 1 :]]
    return found


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_every_changed_command_is_detected(program: Program) -> None:
    recording = World(program, 1).run()[0]
    history = recording.history
    places = [at for at, event in enumerate(history) if not isinstance(event, (*OUTSIDE, *FREE))]
    for at in random.Random(0).sample(places, k=min(len(places), 12)):
        for what, changed in mutations(history, at).items():
            with pytest.raises(NonDeterminismError) as caught:
                replay(program.definition, changed, [], recording.payloads)
            assert caught.value.where, what
            assert caught.value.recorded != caught.value.issued


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_what_a_release_may_change(program: Program) -> None:
    recording = World(program, 2).run()[0]
    changed: list[AnyEvent] = []
    for event in recording.history:
        if isinstance(event, CustomStatusSet):
            continue
        if isinstance(event, TaskScheduled):
            event = msgspec.structs.replace(event, options=ActivityOptions(queue="old", timeout=5))
        changed.append(event)
    assert replay(program.definition, changed, [], recording.payloads).events == []


async def old_code(ctx: Ctx) -> None:
    await ctx.call_activity("reserve", 1)
    await ctx.call_activity("pay", {"amount": 5})
    await ctx.create_timer(timedelta(hours=1))


def recorded() -> Live:
    live = Live(old_code)
    live.start()
    live.done(0)
    live.done(1)
    return live


def caught(function: Any) -> NonDeterminismError:
    live = recorded()
    execution = Execution(define(function), live.payloads)
    with pytest.raises(NonDeterminismError) as error:
        execution.replay(live.history)
    execution.close()
    return error.value


def line_of(function: Callable[..., Any], text: str) -> str:
    """file:line of the line of `function` that ends in the comment `# <text>`."""
    with open(__file__, encoding="utf-8") as source:
        for number, line in enumerate(source, 1):
            if line.rstrip().endswith(f"# {text}"):
                return f"{__file__}:{number}"
    raise AssertionError(text)


async def helper(ctx: Ctx) -> None:
    await ctx.call_activity("charge", {"amount": 5})  # charged in a helper


async def renamed(ctx: Ctx) -> None:
    await ctx.call_activity("reserve", 1)
    await helper(ctx)


async def other_amount(ctx: Ctx) -> None:
    await ctx.call_activity("reserve", 1)
    await ctx.call_activity("pay", {"amount": 6})  # another amount


async def shorter(ctx: Ctx) -> None:
    await ctx.call_activity("reserve", 1)
    await ctx.call_activity("pay", {"amount": 5})
    await ctx.wait_for_external_event("never")  # waits instead


async def longer(ctx: Ctx) -> None:
    ctx.send_event("auditor", "began")  # tells the auditor
    await old_code(ctx)


async def as_a_group(ctx: Ctx) -> None:
    await when_all([ctx.call_activity("reserve", 1), ctx.call_activity("pay", {"amount": 5})])  # both at once


@pytest.mark.parametrize(
    ("function", "seq", "recorded_words", "issued_words", "place"),
    [
        (renamed, 1, "TaskScheduled #1 pay", "TaskScheduled #1 charge", "charged in a helper"),
        (other_amount, 1, '"amount":5', '"amount":6', "another amount"),
        (shorter, 2, "TimerCreated #2", "nothing", "waits instead"),
        (longer, 0, "TaskScheduled #0 reserve", "EventSent #0 instance=auditor began", "tells the auditor"),
        (as_a_group, 0, "TaskScheduled #0 reserve", "GroupScheduled #0", "both at once"),
    ],
)
def test_the_error_shows_both_commands_and_the_line(
    function: Any, seq: int, recorded_words: str, issued_words: str, place: str
) -> None:
    error = caught(function)
    assert error.seq == seq
    assert recorded_words in error.recorded
    assert issued_words in error.issued
    assert error.where == line_of(function, place)
    for part in (error.recorded, error.issued, error.where):
        assert part in str(error)


def test_code_that_fails_instead_is_caught_with_its_error() -> None:
    async def breaks(ctx: Ctx) -> None:
        await ctx.call_activity("reserve", 1)
        raise ValueError("a new bug")

    error = caught(breaks)
    assert "ExecutionFailed builtins.ValueError: a new bug" in error.issued


def test_swallowing_everything_does_not_hide_it() -> None:
    async def swallows(ctx: Ctx) -> None:
        while True:
            try:
                await ctx.call_activity("charge")
            except BaseException:  # noqa: BLE001 - what authors do
                return

    caught(swallows)


async def guarded(ctx: Ctx) -> list[Any]:
    await ctx.call_activity("reserve", 1)
    if ctx.patched("check-first"):
        await ctx.call_activity("check")
    await ctx.call_activity("pay", {"amount": 5})
    if not ctx.patched("no-pause"):
        await ctx.create_timer(timedelta(hours=1))
    return [ctx.patched("check-first"), ctx.patched("no-pause")]


async def guard_removed(ctx: Ctx) -> list[Any]:
    await ctx.call_activity("reserve", 1)
    await ctx.call_activity("check")
    await ctx.call_activity("pay", {"amount": 5})
    return [True, True]


def test_patched_lets_old_histories_take_the_old_branch() -> None:
    live = recorded()
    execution = Execution(define(guarded), live.payloads)
    execution.replay(live.history)
    execution.advance([msgspec.convert({"k": 8, "seq": 2}, AnyEvent)])
    assert execution.outcome.__class__.__name__ == "Completed"
    assert "[false,false]" in str(execution.outcome)


def test_patched_takes_the_new_branch_in_new_ones_and_the_guard_may_go_later() -> None:
    live = Live(guarded)
    live.start()
    for seq in range(3):
        live.done(seq)
    assert live.output == [True, True]
    assert [event.change for event in live.history if isinstance(event, PatchMarker)] == [
        "check-first",
        "no-pause",
    ]
    assert replay(define(guard_removed), live.history, [], live.payloads).events == []


def test_a_patch_that_a_replay_passed_stays_unpatched_in_live_code() -> None:
    async def looping(ctx: Ctx) -> Any:
        found = []
        for n in range(4):
            await ctx.call_activity("a", n)
            found.append(ctx.patched("p"))
        return found

    async def before(ctx: Ctx) -> Any:
        for n in range(4):
            await ctx.call_activity("a", n)

    live = Live(before)
    live.start()
    live.done(0)
    upgraded = Execution(define(looping), live.payloads)
    upgraded.replay(live.history)
    live.execution = upgraded
    for seq in (1, 2, 3):
        live.done(seq)
    assert live.output == [False] * 4
    assert replay(define(looping), live.history, [], live.payloads).events == []


def test_sets_of_arguments_and_tasks_have_no_order_that_matters() -> None:
    async def sets(ctx: Ctx) -> Any:
        return await when_all({ctx.call_activity("a", {str(n) for n in range(20)}) for _ in range(3)})

    live = Live(sets)
    live.start()
    history = live.history
    group = history[1]
    assert isinstance(group, GroupScheduled)
    shuffled = msgspec.json.decode(group.parts)
    for part in shuffled:
        args, kwargs = msgspec.json.decode(part[1])
        part[1] = msgspec.json.encode([[args[0][::-1]], kwargs]).decode()
    history[1] = msgspec.structs.replace(group, parts=msgspec.json.encode(shuffled).decode())
    assert replay(live.definition, history, [], live.payloads).events == []


def test_payloads_put_aside_are_compared_by_their_text() -> None:
    async def big(ctx: Ctx) -> Any:
        return await ctx.call_activity("a", "x" * 10)

    live = Live(big)
    live.start()
    texts = {"@p0": '[["xxxxxxxxxx"],{}]', "@p1": '[["y"],{}]'}
    live.payloads.text = texts.__getitem__
    scheduled = live.history[1]
    for ref, same in (("@p0", True), ("@p1", False)):
        changed = [live.history[0], msgspec.structs.replace(scheduled, input=ref)]
        live.payloads.text = lambda given: texts.get(given, given)
        if same:
            replay(live.definition, changed, [], live.payloads)
        else:
            with pytest.raises(NonDeterminismError):
                replay(live.definition, changed, [], live.payloads)
