"""How long work stands still when its process is killed: `python -m tests.chaos.recovery --kills 20`.

Two orchestrators, two prefork workers and Redis, all with the default lease unless another is given. For
each kill, work is put into the hands of one process, that process gets SIGKILL, and the time is taken until
another one goes on with it. Only then is the killed one started again. Prints median and worst of each kind
(`make recovery KILLS=20`) and exits 1 when one is over the bound.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from celeriac.celery_app import Client

from .client import read_lines
from .faults import embedded_start
from .fleet import ROOT, Fleet, Member, descendants, signal_all

PLACE: Final = ROOT / ".celeriac" / "recovery.json"
BOUND: Final = 15.0  # seconds, with the default lease of 10
PATIENCE: Final = 60.0
CHAINS: Final = 10  # instances under way when Redis is killed


class Recovery:
    """Measures on a running fleet. Each method kills once and returns seconds."""

    def __init__(self, fleet: Fleet, client: Client) -> None:
        self._fleet, self._client = fleet, client
        self._effects = fleet.folder / "effects.jsonl"

    def orchestrator(self) -> float:
        """Killed in the middle of a turn, until another one takes that turn."""
        instance = self._client.start("recovery_turn")
        first = self._line("turn", instance)
        member = self._of(first["pid"])
        killed = self._kill(member, [member.pid])
        again = self._line("turn", instance, but=first["pid"])
        return self._over(instance, again["at"] - killed, member)

    def worker(self) -> float:
        """The main process killed while a child runs an activity, until another worker runs it."""
        return self._hold(lambda member, _: [member.pid])

    def worker_group(self) -> float:
        """The same, with its children and its beat helper: as when the machine is gone."""
        return self._hold(lambda member, _: [member.pid, *descendants(member.pid)])

    def child(self) -> float:
        """The child of the pool that runs an activity, until any other process runs it."""
        return self._hold(lambda _, pid: [pid])

    def redis(self) -> float:
        """Redis killed and started again at once, until each of several instances has gone on."""
        with self._gate() as gate:
            instances = [self._client.start("recovery_chain", str(gate)) for _ in range(CHAINS)]
            for instance in instances:
                self._line("short", instance)
            killed = time.time()
            self._fleet.redis.kill()
            embedded_start(self._fleet.redis)
            # The first step after the kill may have been in a worker already; the second needed everybody.
            seconds = max(self._line("short", i, after=killed, skip=1)["at"] for i in instances) - killed
            gate.touch()
            for instance in instances:
                self._client.wait(instance, PATIENCE).raise_if_failed()
        return seconds

    def _hold(self, victims: Callable[[Member, int], list[int]]) -> float:
        with self._gate() as gate:
            instance = self._client.start("recovery_hold", str(gate))
            first = self._line("hold", instance)
            member = self._of(first["parent"])
            killed = self._kill(member, victims(member, first["pid"]))
            again = self._line("hold", instance, but=first["pid"])
            gate.touch()
            return self._over(instance, again["at"] - killed, member)

    # --- parts ------------------------------------------------------------------------------------

    @contextmanager
    def _gate(self) -> Iterator[Path]:
        gate = self._fleet.folder / "gate"
        gate.unlink(missing_ok=True)
        yield gate

    def _of(self, pid: int) -> Member:
        return next(member for member in self._fleet.members.values() if member.pid == pid)

    def _kill(self, member: Member, pids: list[int]) -> float:
        member.killed = member.pid in pids
        killed = time.time()
        signal_all(pids, signal.SIGKILL)
        if member.killed:
            member.process.wait()
        return killed

    def _line(
        self, what: str, instance: str, *, but: int = 0, after: float = 0, skip: int = 0
    ) -> dict[str, Any]:
        """The first line of this kind that another process than `but` wrote, after that time and beyond the
        first few; waited for.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            mine = [e for e in read_lines(self._effects) if (e["what"], e["instance"]) == (what, instance)]
            fit = [line for line in mine if line["pid"] != but and line["at"] > after]
            if len(fit) > skip:
                return fit[skip]
            time.sleep(0.02)
        raise RuntimeError(f"nobody went on with {instance} within {PATIENCE:g} s")

    def _over(self, instance: str, seconds: float, member: Member) -> float:
        """Let it end, and make the fleet whole again."""
        self._client.wait(instance, PATIENCE).raise_if_failed()
        if member.killed:
            self._fleet.restart(member.name)
        self._fleet.await_processes()
        return seconds


KINDS: Final = {
    "orchestrator": Recovery.orchestrator,
    "worker, main process": Recovery.worker,
    "worker, all its processes": Recovery.worker_group,
    "pool child": Recovery.child,
    "Redis": Recovery.redis,
}


def measure(fleet: Fleet, kills: int, only: list[str] | None) -> dict[str, list[float]]:
    """So many kills of each kind, in turn."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS if not only or kind in only}
    with Client(settings=fleet.settings) as client:
        recovery = Recovery(fleet, client)
        for _ in range(kills):
            for kind in times:
                times[kind].append(round(KINDS[kind](recovery), 2))
                # What was read before need not be read again.
                (fleet.folder / "effects.jsonl").write_bytes(b"")
    return times


def main() -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.recovery", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--beat", type=float, default=2.0)
    parser.add_argument("--bound", type=float, default=BOUND, help="no recovery may take longer, in seconds")
    parser.add_argument("--only", action="append", choices=KINDS, help="only this kind; may be repeated")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="celeriac-recovery-"))
    fleet = Fleet(
        folder, lease=given.lease, beat=given.beat, pools=("prefork", "prefork-2"), orchestrators=2,
        app="tests.chaos.recovery_work",
    )  # fmt: skip
    try:
        fleet.start()
        times = measure(fleet, given.kills, given.only)
    except BaseException:
        fleet.show_stacks()
        print(f"the logs are in {folder}", file=sys.stderr)
        raise
    finally:
        fleet.kill()
    table = Table("killed", "times", "median, s", "worst, s")
    for kind, seconds in times.items():
        table.add_row(kind, str(len(seconds)), f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}")
    Console().print(table)
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(
        json.dumps({"lease": given.lease, "beat": given.beat, "seconds": times}, indent=2) + "\n"
    )
    late = {kind: max(seconds) for kind, seconds in times.items() if max(seconds) > given.bound}
    if late:
        print(f"over {given.bound:g} s: {late}; the logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if late else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
