"""What `celeriac doctor` looks at among the living processes: who is there, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celeriac.orchestrations.errors import InvalidArgumentError

from ..client.progress import ProcessInfo
from ..sealing import seal_of
from ..settings import Settings
from ..store import Store, audit
from .report import Report

__all__ = ["check_agreement", "check_codec", "check_processes", "check_queues"]


def check_processes(report: Report, processes: Iterable[ProcessInfo]) -> None:
    """Whether there is somebody for every kind of work."""
    counts: dict[str, int] = {}
    for process in processes:
        counts[process.kind] = counts.get(process.kind, 0) + 1
    report.facts["Processes"] = {f"{kind}s": count for kind, count in sorted(counts.items())} or {
        "alive": "none"
    }
    missing = [kind for kind in ("orchestrator", "worker") if not counts.get(kind)]
    if missing:
        kinds = " and no ".join(missing)
        report.add("processes", "warn", f"no {kinds} is alive; `celeriac dev` runs everything for a folder")
    else:
        report.add("processes", "ok", ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in counts.items()))


def check_agreement(report: Report, processes: Sequence[ProcessInfo]) -> None:
    """Orchestrators write into the lists that workers read only when both name them alike."""
    said = [(process, process.info["lists"]) for process in processes if _lists(process)]
    names = said[0][1] if said else ()
    differing = [name for name in names if len({repr(lists.get(name)) for _, lists in said}) > 1]
    for name in differing:
        who: dict[str, list[str]] = {}
        for process, lists in said:
            who.setdefault(repr(lists.get(name)), []).append(f"{process.kind} {process.info.get('pid', '?')}")
        words = "; ".join(f"{value}: {', '.join(some[:5])}" for value, some in who.items())
        text = f"the processes of this hub disagree on {name} ({words}): some miss the messages of others"
        report.add("agreement", "warn", f"{text}; give all of them the same settings and modules")
    if said and not differing:
        report.add("agreement", "ok", "all processes name the queues and their priorities alike")


def check_codec(report: Report, settings: Settings, processes: Sequence[ProcessInfo]) -> None:
    """Who seals must be understood by all others."""
    try:
        mine = seal_of(settings)
    except InvalidArgumentError as error:
        report.add("codec", "refuse", f"no orchestrator or worker can start: {error}")
        return
    who: dict[str, list[str]] = {mine.name: ["this command"]}
    for process in filter(_lists, processes):
        words = f"{process.kind} {process.info.get('pid', '?')}"
        who.setdefault(str(process.info.get("codec", "")), []).append(words)
    if len(who) > 1:
        words = "; ".join(f"{codec or 'none'}: {', '.join(some[:5])}" for codec, some in who.items())
        text = f"not all processes of this hub have the same codec and keys ({words})"
        report.add("codec", "warn", f"{text}; what one seals the others may not be able to open")
    elif not mine.name:
        report.add("codec", "ok", "values go to Redis in clear (no CELERIAC_CODEC)")
    elif settings.codec_seals:
        report.add("codec", "ok", f"values are sealed by {mine.name}")
    else:
        report.add(
            "codec", "warn", f"{mine.name} only opens (CELERIAC_CODEC_SEALS): values go to Redis in clear"
        )


def _lists(process: ProcessInfo) -> bool:
    return isinstance(process.info.get("lists"), Mapping)


def check_queues(
    report: Report, settings: Settings, store: Store, processes: Sequence[ProcessInfo], steps: Sequence[int]
) -> None:
    """How much waits, instances for orchestrators and messages for workers; whether somebody listens; what
    was lost and found again.
    """
    keys, client = store.keys, store.client
    depths: dict[str, Any] = {
        "instances ready": client.zcard(keys.path("ready")),
        "timers": client.zcard(keys.path("timers")),
        "retries parked": client.zcard(keys.path("parked")),
    }
    workers = [process for process in processes if process.kind == "worker"]
    served = {str(name) for process in workers for name in process.info.get("queues", ())}
    named = {str(p.info["lists"].get("queue")) for p in processes if _lists(p)}
    for queue in sorted({settings.queue} | served | named):
        # kombu keeps the other priority steps of a queue under names of their own.
        first = settings.queue_key(queue)
        lists = [f"{first}\x06\x16{step}" if step else first for step in steps]
        waiting = sum(int(client.llen(name)) for name in lists)
        depths[f"queue {queue}"] = waiting
        if waiting and workers and queue not in served:
            text = f"{waiting} messages wait in queue {queue!r}, and no living worker serves it"
            report.add("queues", "warn", f"{text}; start one with --queues {queue}")
    report.facts["Queues"] = depths
    report.facts["Mended by the audit"] = store.run(audit.mended(keys)) or {"so far": "nothing"}
