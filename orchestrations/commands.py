"""What a step asks for: the recorded command events themselves, and how two of them are compared.

The rules of comparison, used when a replay issues commands again:

- kind, number, name, arguments, ids and due time must be those recorded; arguments are compared as
  JSON values, and the order inside nested arrays does not count (a set has none).
- options (retry policy, queue, time-outs, tags), versions and stack traces are not compared: a new
  release may change them, and the recorded ones hold for what was already scheduled.
- custom statuses and patch markers are not compared: nothing that follows depends on the former, and
  the latter are read, not issued, on replay; so a guard may be deleted when the old branch is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from .history import (
    AnyEvent,
    ContinuedAsNew,
    CustomStatusSet,
    Event,
    ExecutionCompleted,
    ExecutionFailed,
    GroupScheduled,
    Part,
    PatchMarker,
    SubOrchestrationInstanceCreated,
    TaskScheduled,
)

__all__ = [
    "GROUP_PARTS",
    "attempt_id",
    "check_event_name",
    "check_instance_id",
    "child_id",
    "describe",
    "first_difference",
]

SHOWN = 120  # characters of a payload in a description
LONGEST_ID = 256
LONGEST_PARENT = 200
LONGEST_EVENT = 100
_BAD_ID = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")
_BAD_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNCOMPARED = (CustomStatusSet, PatchMarker)
_HIDDEN = {"at", "seq", "options", "tags", "rules", "stack_trace"}

GROUP_PARTS = msgspec.json.Decoder(list[Part])
"""Reads `GroupScheduled.parts`."""


def check_instance_id(instance: str) -> str:
    """`instance` if it may name an instance; else ValueError."""
    if (
        not isinstance(instance, str)
        or not 1 <= len(instance) <= LONGEST_ID
        or instance[0] == "@"
        or _BAD_ID.search(instance)
    ):
        raise ValueError(
            f"{instance!r:.300} cannot be an instance id: it takes 1 to {LONGEST_ID} characters, does not "
            "start with '@' and holds none of / \\ # ? or control characters"
        )
    return instance


def check_event_name(name: str) -> str:
    """`name` if a client, too, could raise an event of this name; else ValueError."""
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_EVENT or _BAD_NAME.search(name):
        raise ValueError(
            f"{name!r:.300} cannot be the name of an event: it takes 1 to {LONGEST_EVENT} characters, is not "
            "blank and holds no control characters and no halves of surrogate pairs"
        )
    return name


def child_id(parent: str, run: int, seq: int) -> str:
    """The id of a child that was given none: parent, run number after a continue-as-new, number of the call.

    The `r` keeps the run number apart from the numbers of grandchildren.
    """
    if len(parent) > LONGEST_PARENT:
        parent = _short(parent)
    return f"{parent}:r{run}:{seq:04x}" if run else f"{parent}:{seq:04x}"


def attempt_id(first: str, attempt: int) -> str:
    """The id of a child that is tried again: that of the first attempt and the number of this one.

    Where that would be longer than an id may be, a hash stands for the first attempt's id.
    """
    again = f"{first}.{attempt}"
    return again if len(again) <= LONGEST_ID else f"{_short(first)}.{attempt}"


def _short(instance: str) -> str:
    return hashlib.sha256(instance.encode()).hexdigest()[:32]


# --- describing ------------------------------------------------------------------------------------


def describe(event: Event | None) -> str:
    """One line for people: the kind, the number, and what tells it from another of its kind."""
    if event is None:
        return "nothing"
    kind = type(event).__name__
    seq = getattr(event, "seq", None)
    shown = [kind if seq is None else f"{kind} #{seq}"]
    if isinstance(event, ExecutionFailed):
        return f"{kind} {event.failure.error_type}: {event.failure.message}"[: 2 * SHOWN]
    for field in event.__struct_fields__:
        value = getattr(event, field)
        if field in _HIDDEN or value is None or value == "":
            continue
        text = value if isinstance(value, str) else repr(value)
        text = text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"
        shown.append(text if field == "name" else f"{field}={text}")
    return " ".join(shown)


# --- comparing -------------------------------------------------------------------------------------


def first_difference(
    recorded: Sequence[AnyEvent], issued: Sequence[AnyEvent], text_of: Callable[[str], str]
) -> tuple[AnyEvent | None, AnyEvent | None] | None:
    """The first pair (recorded, issued) of commands that are not the same; None when all are.

    `text_of` reads a payload that is kept aside.
    """
    old = [command for command in recorded if not isinstance(command, _UNCOMPARED)]
    new = [command for command in issued if not isinstance(command, _UNCOMPARED)]
    for before, after in zip(old, new, strict=False):
        if before != after and not _same(before, after, text_of):
            return before, after
    if len(old) > len(new):
        return old[len(new)], None
    return (None, new[len(old)]) if len(new) > len(old) else None


def _same(recorded: Any, issued: Any, text_of: Callable[[str], str]) -> bool:
    if type(recorded) is not type(issued):
        return False
    if isinstance(recorded, ExecutionFailed):
        return recorded.failure.error_type == issued.failure.error_type
    if isinstance(recorded, GroupScheduled):
        return _same_group(recorded, issued, text_of)
    ignored = {"at"}
    if isinstance(recorded, TaskScheduled | SubOrchestrationInstanceCreated):
        ignored |= {"options", "version", "tags", "parent_close"}
    for field in recorded.__struct_fields__:
        old, new = getattr(recorded, field), getattr(issued, field)
        if field in ignored or old == new:
            continue
        payload = field == "input" or isinstance(recorded, ExecutionCompleted | ContinuedAsNew)
        if not payload or not _same_json(old, new, text_of, call=isinstance(recorded, TaskScheduled)):
            return False
    return True


def _same_group(recorded: GroupScheduled, issued: GroupScheduled, text_of: Callable[[str], str]) -> bool:
    if (recorded.seq, recorded.size, recorded.name) != (issued.seq, issued.size, issued.name):
        return False
    if recorded.parts == issued.parts:
        return True
    old, new = GROUP_PARTS.decode(text_of(recorded.parts)), GROUP_PARTS.decode(text_of(issued.parts))
    return all(
        a.name == b.name and (a.input == b.input or _same_json(a.input, b.input, text_of, call=True))
        for a, b in zip(old, new, strict=True)
    )


def _same_json(recorded: Any, issued: Any, text_of: Callable[[str], str], *, call: bool) -> bool:
    if not isinstance(recorded, str) or not isinstance(issued, str):
        return recorded is issued
    recorded, issued = text_of(recorded), text_of(issued)
    if recorded == issued:
        return True
    old, new = msgspec.json.decode(recorded), msgspec.json.decode(issued)
    if call and isinstance(old, list) and isinstance(new, list) and len(old) == len(new) == 2:
        (old_args, old_named), (new_args, new_named) = old, new
        return [*map(_canonical, old_args), _canonical(old_named)] == [
            *map(_canonical, new_args), _canonical(new_named)
        ]  # fmt: skip
    return _canonical(old) == _canonical(new)


def _canonical(value: Any) -> Any:
    """A form in which objects have no order of keys, and arrays none of items."""
    if isinstance(value, dict):
        return ("object", sorted((key, _canonical(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("array", sorted(map(_canonical, value), key=repr))
    return (type(value).__name__, value)
