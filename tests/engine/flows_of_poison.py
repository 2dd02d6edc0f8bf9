"""Orchestrators that harm their process, each in its way; with the variable FLOWS_MENDED they are mended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celeriac.orchestrations import OrchestrationContext, orchestrator

MENDED = bool(os.environ.get("FLOWS_MENDED"))
ROOM = 64 * 2**20  # bytes that the memory bomb may take


class Outcast(BaseException):
    """Not an Exception, so it is not meant for orchestrations."""


def loops() -> None:
    while True:
        pass  # the line that loops


def sleeps() -> None:
    time.sleep(3600)  # the line that sleeps


def swallows() -> None:
    while True:
        try:
            while True:
                pass  # the line that swallows
        except BaseException:  # noqa: BLE001  this is what it is for
            continue


def goes_on() -> None:
    """Not interrupted for good, but what it does then depends on the time it took."""
    with contextlib.suppress(BaseException):
        time.sleep(3600)  # the line that goes on


def out_of_memory() -> None:
    """As where the process has a limit of its own."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    hoard: list[Any] = []
    try:
        while True:
            hoard.append(bytearray(2**20))
    finally:
        hoard.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcast() -> None:
    raise Outcast("not for you")


def recurses() -> int:
    return recurses() + 1


def quits() -> None:
    sys.exit(3)


POISONS: dict[str, Callable[[], Any]] = {
    "loops": loops,
    "sleeps": sleeps,
    "swallows": swallows,
    "goes_on": goes_on,
    "out_of_memory": out_of_memory,
    "outcast": outcast,
    "recurses": recurses,
    "quits": quits,
    "exits": lambda: os._exit(0),
    "aborts": os.abort,
    "segfaults": lambda: ctypes.string_at(0),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),  # as the OOM killer does
}


@orchestrator
async def poison(ctx: OrchestrationContext, kind: str) -> str:
    await ctx.create_timer(timedelta(milliseconds=1))
    if not MENDED:
        POISONS[kind]()
    await ctx.create_timer(timedelta(milliseconds=1))
    return "mended"


@orchestrator
async def cannot_be_closed(ctx: OrchestrationContext) -> str:
    try:
        await ctx.wait_for_external_event("noise")
        await ctx.wait_for_external_event("go")
    finally:
        while not MENDED:
            pass  # the line that cannot be closed
    return "mended"


@orchestrator
async def returns_much(ctx: OrchestrationContext) -> str:
    return "x" * 100_000_000


@orchestrator
async def asks_for_much(ctx: OrchestrationContext) -> None:
    for n in range(10_000_000):
        ctx.create_timer(timedelta(days=n))


@orchestrator
async def counts(ctx: OrchestrationContext, n: int) -> int:
    return n


@orchestrator
async def healthy(ctx: OrchestrationContext, n: int) -> int:
    for _ in range(5):
        await ctx.create_timer(timedelta(milliseconds=200))
        n += 1
    return n
