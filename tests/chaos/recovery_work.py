"""What is in the hands of a process when it is killed, to measure how soon another one goes on with it.

Every begin of a turn or an activity appends `{"what", "instance", "pid", "parent", "at"}` to the effect log.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from celeriac.activities import ActivityContext, activity
from celeriac.orchestrations import OrchestrationContext, orchestrator

TURN_SECONDS: Final = 1.0  # less than what the engine finds worth a word
LONGEST_HOLD: Final = 60.0
_EFFECTS: Final = os.open(
    os.environ.get("CHAOS_EFFECTS", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
)
faulthandler.register(signal.SIGUSR2)  # the harness asks for stacks when something is stuck


def _note(what: str, instance: str) -> None:
    line: dict[str, Any] = {"what": what, "instance": instance, "at": time.time()}
    line |= {"pid": os.getpid(), "parent": os.getppid()}
    os.write(_EFFECTS, json.dumps(line).encode() + b"\n")


@activity
def hold(gate: str) -> None:
    """Runs until the file `gate` is there."""
    _note("hold", ActivityContext.current().instance_id)
    end = time.monotonic() + LONGEST_HOLD
    while not Path(gate).exists() and time.monotonic() < end:
        time.sleep(0.02)


@activity
def short(n: int) -> int:
    """One of many steps."""
    _note("short", ActivityContext.current().instance_id)
    time.sleep(0.05)
    return n + 1


@orchestrator
async def recovery_turn(ctx: OrchestrationContext) -> None:
    """A turn that takes a while; what it writes is no part of the history."""
    _note("turn", ctx.instance_id)
    time.sleep(TURN_SECONDS)


@orchestrator
async def recovery_hold(ctx: OrchestrationContext, gate: str) -> None:
    """One activity that runs until it is let go."""
    await ctx.call_activity(hold, gate)


@orchestrator
async def recovery_chain(ctx: OrchestrationContext, gate: str) -> int:
    """Steps one after another, until the gate is there."""
    n = 0
    while n < 2000:
        n = await ctx.call_activity(short, n)
        if await ctx.call_activity(is_open, gate):
            break
    return n


@activity
def is_open(gate: str) -> bool:
    """Whether the gate is there."""
    return Path(gate).exists()
