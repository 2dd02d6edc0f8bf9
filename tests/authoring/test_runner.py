"""Running one attempt: JSON in, JSON out, and one loop for all async activities of a process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from celeriac.activities import INJECTED, Activity, ActivityContext, ActivityRegistry, activity, run_activity
from celeriac.activities.runner import stop_loop
from celeriac.orchestrations import CodecError

REGISTRY = ActivityRegistry()
CONTEXT = ActivityContext(instance_id="i", execution_id="e", seq=3, attempt=2)


@dataclass
class Point:
    x: int


@activity(registry=REGISTRY)
def move(point: Point, by: int = 1) -> Point:
    return Point(point.x + by)


@activity(registry=REGISTRY)
async def loop_of() -> tuple[int, int]:
    await asyncio.sleep(0)
    return id(asyncio.get_running_loop()), threading.get_ident()


@activity(registry=REGISTRY)
async def told(greeting: str, context: ActivityContext = INJECTED) -> str:
    await asyncio.sleep(0)
    assert ActivityContext.current() is context
    return f"{greeting} {context.instance_id} {context.idempotency_key} {context.attempt}"


@activity(registry=REGISTRY)
def before(context: ActivityContext, a: int, *rest: int, z: int = 0) -> list[Any]:
    return [context.seq, a, *rest, z]


@activity(registry=REGISTRY)
async def fails() -> None:
    raise LookupError("no such thing")


@activity(registry=REGISTRY)
async def cancels_itself() -> None:
    raise asyncio.CancelledError


class SoftLimitError(Exception):
    pass


@activity(registry=REGISTRY)
def useless() -> object:
    return object()


def run(reference: Activity[..., Any], call: str = "[[],{}]") -> str:
    return run_activity(reference, call, CONTEXT)


@pytest.fixture(autouse=True, scope="module")
def _no_loop_left() -> Any:
    yield
    stop_loop()


def test_arguments_and_result_are_typed() -> None:
    assert run(move, '[[{"x":1}],{"by":4}]') == '{"x":5}'
    with pytest.raises(CodecError, match=r"argument 'point' of .*move: \$\.x: Expected `int`, got `str`"):
        run(move, '[[{"x":"1"}],{}]')
    with pytest.raises(CodecError, match=r"^the result of activity 'useless': \$: a value of type object"):
        run(useless)


def test_the_context_is_given_and_current() -> None:
    assert run(told, '[["hello"],{}]') == '"hello i e:3 2"'
    assert run(before, '[[1,2,3],{"z":9}]') == "[3,1,2,3,9]"
    assert run(before, '[[],{"a":1}]') == "[3,1,0]"


def test_exceptions_pass_as_they_are() -> None:
    with pytest.raises(LookupError, match="no such thing"):
        run(fails)
    with pytest.raises(RuntimeError, match="cancelled from inside"):
        run(cancels_itself)


def test_all_async_activities_share_one_loop_in_one_thread() -> None:
    with ThreadPoolExecutor(4) as pool:
        seen = {run(loop_of) for _ in range(3)} | set(pool.map(run, [loop_of] * 8))
    assert len(seen) == 1
    assert str(threading.get_ident()) not in next(iter(seen))


def test_activities_overlap_on_the_loop() -> None:
    meeting = threading.Barrier(3)

    @activity(registry=REGISTRY)
    async def meet() -> bool:
        await asyncio.to_thread(meeting.wait, 10)
        return True

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, [meet] * 3)) == ["true"] * 3


def test_a_forked_child_makes_its_own_loop() -> None:
    ours = run(loop_of)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        os.write(write, run(loop_of).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    assert theirs.startswith("[")
    assert run(loop_of) == ours


def test_an_interrupted_wait_cancels_the_coroutine() -> None:
    ended = threading.Event()

    @activity(registry=REGISTRY)
    async def sleeps() -> None:
        try:
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(60)
        finally:
            ended.set()

    def interrupt(*_: Any) -> None:
        raise SoftLimitError

    previous = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(SoftLimitError):
            run(sleeps)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert ended.wait(5)


def test_the_loop_can_be_stopped_and_starts_afresh() -> None:
    run(loop_of)
    stop_loop()
    assert all(thread.name != "celeriac-activities" for thread in threading.enumerate())
    run(loop_of)
