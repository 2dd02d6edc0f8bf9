"""python -m benchmarks.profile [W2] [--shape solo]: where the time of one step goes, part by part.

Runs one workload of ours under the sampler and prints, for the client, the orchestrator, each worker (a
pool's children too) and Redis: CPU microseconds per step, and of the Python ones the functions that took most
of them, with all they call (`in all`) and by themselves (`own`). Of Redis, its own account of its scripts and
commands. A step runs in one of the workers: add them up. Microseconds are CPU time, but use an idle machine:
with others on its cores everything takes up to twice as many, because the caches are theirs too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from celeriac.celery_app.store.scripts import script

from .machines import ROOT, SHAPES, Ours, our_side, ready, redis_server
from .measuring import cpu_seconds
from .sampler import Sampler, shortened
from .workloads import Paired, paired

LUA = ROOT / "celery_app" / "store" / "lua"
LOGGED_FROM = 10  # microseconds


def children(pid: int) -> list[int]:
    """The processes that this one forked."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def processes(ours: Ours) -> dict[int, str]:
    """Every process that is measured, by pid."""
    found = {os.getpid(): "client", ours.redis.pid: "redis"}
    for each in (*ours.orchestrators, *ours.workers):
        found[each.pid] = each.name
        found |= dict.fromkeys(children(each.pid), f"{each.name} child")
    return found


def samples(folder: Path, pid: int) -> dict[str, Any]:
    """What the sampler of that process has written last."""
    files = list(folder.glob(f"*.{pid}.json"))
    return json.loads(files[0].read_text()) if files else {"total": 0, "own": {}, "within": {}}


def commands(client: redis.Redis) -> dict[str, tuple[int, int]]:
    """Calls and microseconds of each Redis command so far; those of a script count in EVALSHA too."""
    stats: Any = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): (each["calls"], each["usec"]) for name, each in stats.items()}


@contextmanager
def scripts_logged(client: redis.Redis) -> Iterator[Counter[str]]:
    """Microseconds that Redis spent in each of our scripts during the block, by its slow log.

    Runs shorter than LOGGED_FROM are not logged: they would fill it with the commands within the scripts.
    """
    by_sha = {script(path.stem).sha: path.stem for path in LUA.glob("*.lua")}
    taken: Counter[str] = Counter()
    client.config_set("slowlog-max-len", 1_000_000)
    client.config_set("slowlog-log-slower-than", LOGGED_FROM)
    client.slowlog_reset()
    yield taken
    client.config_set("slowlog-log-slower-than", -1)
    entries: Any = client.slowlog_get(1_000_000)
    for entry in entries:
        words = entry["command"].split()
        if words[0].upper() == b"EVALSHA":
            taken[by_sha.get(words[1].decode(), "?")] += entry["duration"]


def profile(ours: Ours, workload: Paired, runs: int, folder: Path, top: int) -> None:
    """Warm up, measure and print."""
    workload.ours(ours)
    named, settle = processes(ours), 1.0
    time.sleep(settle)  # every process writes its counts at least so often while it works
    with redis.Redis.from_url(ours.url) as client:
        before = {pid: (cpu_seconds(pid), samples(folder, pid)) for pid in named}
        asked, begin = commands(client), time.perf_counter()
        with scripts_logged(client) as in_scripts:
            for _ in range(runs):
                workload.ours(ours)
        seconds, steps = time.perf_counter() - begin, runs * workload.steps
        used = {pid: cpu_seconds(pid) - before[pid][0] for pid in named}
        answered = commands(client)
    time.sleep(settle)
    print(f"{workload.key}, {ours.shape}: {steps} steps, {steps / seconds:.0f}/s with the sampler at work;")
    print(f"load {os.getloadavg()[0]:.1f}; CPU {sum(used.values()) / steps * 1e6:.0f} us per step in all")
    by_kind: Counter[str] = Counter()
    for pid, name in named.items():
        by_kind[name.split("-")[0].replace("ours", "workers")] += round(used[pid] / steps * 1e6)
    print(", ".join(f"{kind} {each}" for kind, each in by_kind.most_common()))
    for pid, name in named.items():
        each = used[pid] / steps * 1e6
        print(f"\n== {name} ({pid}): {each:.0f} us of CPU per step")
        if name != "redis":
            _parts(before[pid][1], samples(folder, pid), each, top)
    print(f"\n== Redis by its own account: scripts (runs of {LOGGED_FROM} us and more), us per step")
    for name, usec in in_scripts.most_common(top):
        print(f"  {usec / steps:8.1f} us  {name}")
    print("== commands, us and calls per step; evalsha holds what its scripts call")
    rows = [
        (usec - asked.get(c, (0, 0))[1], n - asked.get(c, (0, 0))[0], c) for c, (n, usec) in answered.items()
    ]
    for usec, calls, command in sorted(rows, reverse=True)[:top]:
        print(f"  {usec / steps:8.1f} us {calls / steps:7.2f} x  {command}")


def _parts(before: dict[str, Any], after: dict[str, Any], each: float, top: int) -> None:
    total = after["total"] - before["total"]
    if not total:
        return
    for kind, title in (("within", "in all"), ("own", "own")):
        counts = Counter(after[kind])
        counts.subtract(before[kind])
        print(f"  {title}, of {total} samples:")
        for label, count in _told(counts.most_common(), total, top):
            print(f"  {count / total * each:8.1f} us {100 * count / total:5.1f} %  {shortened(label)}")


def _told(counts: Iterable[tuple[str, int]], total: int, top: int) -> list[tuple[str, int]]:
    """The greatest, without the frames that everything runs in."""
    return [(label, n) for label, n in counts if n < 0.98 * total and n > 0][:top]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    workloads = {each.key: each for each in paired(1.0, 5.0) if "/" not in each.key}
    parser.add_argument("workload", nargs="?", default="W2", choices=workloads)
    parser.add_argument("--shape", default="solo", choices=SHAPES)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the workload")
    parser.add_argument("--runs", type=int, default=3, help="how often it runs, after one unmeasured")
    parser.add_argument("--top", type=int, default=40, help="how many parts of each process are shown")
    options = parser.parse_args()
    chosen = next(each for each in paired(options.scale, 5.0) if each.key == options.workload)
    with tempfile.TemporaryDirectory(prefix="celeriac-samples-") as name, redis_server() as server:
        os.environ["BENCH_SAMPLES"] = name
        with ExitStack() as stack:
            ours = our_side(stack, server, options.shape, 0)
            ready(ours)
            sampler = Sampler(Path(name), "client")
            try:
                profile(ours, chosen, options.runs, Path(name), options.top)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                sampler.flush()


if __name__ == "__main__":
    main()
