"""A chaos run: `python -m tests.chaos --minutes 20 --seed 1` (`make chaos MINUTES=20 SEED=1`).

Starts a fleet, lets a client work it, breaks something every few seconds, then lets it come to rest, dumps
Redis and judges. Prints a table and writes it to `.celeriac/chaos/`. Exits 1 when anything is wrong, and
keeps every file then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import redis
from rich.console import Console
from rich.table import Table

from .checker import check, show
from .checks_keys import BINDINGS
from .checks_runs import Duplicates
from .evidence import Evidence, RunFacts, write_dump
from .faults import Hand, plan
from .fleet import ROOT, Fleet
from .witness import Witness

PLACE = ROOT / ".celeriac" / "chaos"
POOLS = ("prefork", "threads", "solo")


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="length of the faults")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and of the work")
    parser.add_argument("--every", default="5-20", help="seconds between two faults, from-to")
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--beat", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=10.0, help="instances started in a second, at most")
    parser.add_argument("--in-flight", type=int, default=60, help="instances at once, at most")
    parser.add_argument("--settle", type=float, default=180.0, help="seconds for everything to end")
    parser.add_argument("--folder", type=Path, help="where all files go; kept, then")
    return parser.parse_args(words)


def main(given: argparse.Namespace) -> int:
    """Run, judge, show."""
    folder = (given.folder or PLACE / f"seed-{given.seed}-{int(time.time())}").absolute()
    folder.mkdir(parents=True)
    low, high = (float(each) for each in given.every.split("-"))
    faults = plan(given.seed, given.minutes * 60, (low, high), given.lease, given.beat)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    fleet = Fleet(folder, lease=given.lease, beat=given.beat, pools=POOLS, orchestrators=2)
    try:
        fleet.start([str(folder), str(given.seed), str(given.rate), str(given.in_flight)])
        witness = Witness(fleet.redis.url, fleet.settings.hub, folder / "lapses.jsonl")
        hand = Hand(fleet, faults)
        end = time.monotonic() + given.minutes * 60
        while time.monotonic() < end or not hand.idle:
            hand.turn()
            time.sleep(0.02)
        facts = _settle(fleet, hand, given)
        witness.close()
        write_dump(fleet.redis.url, folder / "dump.msgpack")
        facts.surprises += fleet.stop()
        (folder / "facts.json").write_bytes(msgspec.json.encode(facts))
    finally:
        fleet.kill()
    return _judge(folder, given, hand.counts)


def _settle(fleet: Fleet, hand: Hand, given: argparse.Namespace) -> RunFacts:
    """No more faults and no more starts; wait until nothing is left to do, as long as is allowed."""
    client = fleet.members["client"]
    client.process.terminate()
    deadline = time.monotonic() + given.settle
    waiting = ["?"]
    with redis.Redis.from_url(fleet.redis.url) as connection:
        while waiting and time.monotonic() < deadline:
            time.sleep(0.3)
            if not client.alive:
                client.killed = True  # it was asked to end
            hand.turn()
            waiting = _waiting(connection, fleet)
    if waiting:
        fleet.show_stacks()
    if client.alive:
        waiting.append("the client has not done everything")
    elif client.process.returncode:
        hand.surprises.append(f"the client ended with {client.process.returncode}; see its log")
    pids = [member.pid for member in fleet.members.values()]
    return RunFacts(
        given.seed, fleet.settings.hub, given.lease, given.beat, pids, not waiting, waiting, hand.surprises
    )


def _waiting(connection: Any, fleet: Fleet) -> list[str]:
    """What is still to be done, or to be swept; empty at rest."""
    hub = fleet.settings.hub
    counted = {
        **{f"idx:status:{status}": "zcard" for status in ("Pending", "Running", "Suspended")},
        **dict.fromkeys(("ready", "timers", "deadlines", "parked"), "zcard"),
        "closing": "llen",
    }
    sizes = {name: getattr(connection, verb)(f"{hub}:{name}") for name, verb in counted.items()}
    waiting = [f"{name} {size}" for name, size in sizes.items() if size]
    for prefix in ("queue:", "flight:", "claims:", "trig:", "again:"):
        found = (key.decode() for key in connection.scan_iter(match=f"{hub}:{prefix}*", count=1000))
        waiting += [key for key in found if BINDINGS not in key]
    alive = {member.pid for member in fleet.members.values() if member.alive}
    processes = [json.loads(info) for info in connection.hvals(f"{hub}:procs")]
    known = {process["pid"] for process in processes}
    # One that began anew with Redis leaves its old name to the sweep, which may come amid the dump.
    if len({(process["kind"], process["pid"]) for process in processes}) < len(processes):
        waiting.append("old names of processes")
    if fleet.members["client"].alive:
        waiting.append("the client")
    names = set(connection.zrange(f"{hub}:beats", 0, -1)) ^ set(connection.hkeys(f"{hub}:procs"))
    return waiting + [f"process {pid}" for pid in known - alive] + [name.decode() for name in names]


def _judge(folder: Path, given: argparse.Namespace, counts: dict[str, int]) -> int:
    evidence = Evidence.read(folder)
    findings = check(evidence)
    causes = Duplicates(evidence).causes
    result = {
        "seed": given.seed,
        "minutes": given.minutes,
        "lease": given.lease,
        "beat": given.beat,
        "faults": dict(sorted(counts.items())),
        "instances": len(evidence.records),
        "acknowledged": sum(line["what"] == "ack" for line in evidence.client),
        "by status": dict(Counter(record["status"] for record in evidence.records.values())),
        "activity runs": sum(map(len, evidence.runs.values())),
        "activities": len(evidence.runs),
        "leases of workers that lapsed": sum(line["incarnation"][0] == "w" for line in evidence.lapses),
        "explained duplicates": dict(causes),
        "findings": dict(Counter(finding.kind for finding in findings)),
    }
    _show(result)
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    if findings:
        print(show(findings))
        print(f"\nseed {given.seed} FAILED; everything is in {folder}\n"
              f"judge it again: python -m tests.chaos.checker {folder}")  # fmt: skip
        return 1
    print(f"seed {given.seed}: nothing lost, stuck, wrong, doubled without cause, or leaked")
    if given.folder is None:
        shutil.copy(folder / "result.json", PLACE / f"seed-{given.seed}.json")
        shutil.rmtree(folder)
    return 0


def _show(result: dict[str, Any]) -> None:
    table = Table("", "", show_header=False)
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{kind} {n}" for kind, n in value.items()) or "none"
            if name == "faults":
                value = f"{sum(result[name].values())}: {value}"
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(options()))
