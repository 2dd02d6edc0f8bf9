"""What an instance waits for, read from its open steps: for `watch` and the status."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from celeriac.orchestrations.errors import Attempt

from .keys import Keys
from .records import Progress
from .scripts import Call, script

__all__ = ["progress"]

_attempts = msgspec.json.Decoder(tuple[Attempt, ...])
_GROUP = re.compile(r"g(\d+)([a-z]?)")


def progress(keys: Keys, instance: str, limit: int = 1000) -> Call[list[Progress]]:
    """Open activities, timers, children and groups by seq; of very many, about `limit`."""
    return script("progress").call(keys, instance=instance, limit=limit, decode=_decode, idempotent=True)


def _decode(reply: Any) -> list[Progress]:
    steps: list[Progress] = []
    groups: dict[int, dict[str, str]] = {}
    failures = {
        raw[1:].decode(): _attempts.decode(b"[" + value + b"]")
        for raw, value, _ in reply[1]
        if raw[:1] == b"f"
    }
    notes = {raw[1:].decode(): value.decode() for raw, value, _ in reply[1] if raw[:1] == b"h"}
    for raw_field, raw_value, due in reply[1]:
        field, value = raw_field.decode(), raw_value.decode()
        group = _GROUP.fullmatch(field)
        if group:
            groups.setdefault(int(group.group(1)), {})[group.group(2)] = value
        elif field.isdigit():
            step = _step(int(field), value, int(float(due)) if due else 0, failures.get(field, ()))
            note = notes.get(field)
            steps.append(msgspec.structs.replace(step, note=note) if note else step)
    steps += [_group(seq, parts) for seq, parts in groups.items() if "" in parts]
    return sorted(steps, key=lambda step: (step.seq, step.kind != "group"))


def _step(seq: int, value: str, due: int, failures: tuple[Attempt, ...]) -> Progress:
    if value == "t":
        return Progress(seq=seq, kind="timer", due=due)
    if value.startswith("c|"):
        return Progress(seq=seq, kind="child", child=value[2:])
    words = value.split("|")
    group = int(words[-1][1:]) if words[-1].startswith("g") else -1
    state = words[1] if len(words) > 1 else ""
    if state == "r":
        return Progress(
            seq=seq, kind="activity", state="running", attempt=int(words[0]), group=group,
            worker=words[2], since=int(words[3]), failures=failures,
        )  # fmt: skip
    name = "parked" if state == "p" else "queued"
    return Progress(
        seq=seq, kind="activity", state=name, attempt=int(words[0]), group=group, due=due, failures=failures
    )


def _group(seq: int, parts: dict[str, str]) -> Progress:
    return Progress(
        seq=seq,
        kind="group",
        state="dissolved" if "x" in parts else "open",
        size=int(parts[""]),
        done=int(parts.get("d", 0)),
        failed=int(parts.get("f", 0)),
        in_flight=int(parts.get("i", 0)),
        emitted=int(parts.get("c", 0)),
    )
