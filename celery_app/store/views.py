"""Reading calls: one instance, its history, listings, progress, processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from celeriac.orchestrations.errors import InvalidArgumentError

from .keys import Keys
from .progress import progress
from .records import InstanceRecord, Page, Process, Query, Summary
from .scripts import Call, command, script

__all__ = ["get", "history", "lengths", "list_instances", "note_served", "processes", "progress", "served"]

SCAN = 1000  # index entries looked at in one page

_tags = msgspec.json.Decoder(dict[str, str])
_names = msgspec.json.Decoder(list[str])


def get(keys: Keys, instance: str) -> Call[InstanceRecord]:
    """The record; InstanceNotFoundError."""

    def decode(reply: Any) -> InstanceRecord:
        return _record(instance, reply)

    return script("get").call(keys, instance=instance, decode=decode, idempotent=True)


def _record(instance: str, reply: Any) -> InstanceRecord:
    flat, history_length, inbox_length, started = reply
    r = {flat[n].decode(): flat[n + 1].decode() for n in range(0, len(flat), 2)}
    return InstanceRecord(
        instance=instance,
        execution=r["execution"],
        name=r["name"],
        version=r.get("version", ""),
        status=r["status"],
        created=int(r["created"]),
        updated=int(r["updated"]),
        output=r.get("output"),
        failure=r.get("failure"),
        custom=r.get("custom"),
        tags=_tags.decode(r.get("tags", "{}")),
        parent=r.get("parent", ""),
        parent_execution=r.get("parent_execution", ""),
        parent_seq=int(r.get("parent_seq", 0)),
        run=int(r.get("run", 0)),
        suspect="suspect" in r,
        crashes=int(r.get("crashes", 0)),
        waiting=r.get("waiting", ""),
        reason=r.get("reason", ""),
        started=started,
        history_length=history_length,
        inbox_length=inbox_length,
        start_at=int(r.get("delayed", 0)),
    )


def history(keys: Keys, instance: str, start: int = 0, stop: int = -1) -> Call[list[bytes]]:
    """Events as JSON, oldest first, from `start` to `stop` (included, -1: the last)."""
    return command("LRANGE", keys.hist(instance), start, stop)


def list_instances(keys: Keys, query: Query, limit: int = 100, cursor: str = "") -> Call[Page]:
    """One page of at most `limit` instances; it may be short or empty and still have a cursor to go on."""
    index, lex = _index_for(keys, query)
    score, _, last = cursor.partition(":")
    if cursor and (not last or not (score.isdigit())):
        raise InvalidArgumentError(f"the cursor {cursor!r} did not come from a page")
    tag_key, _, tag_value = query.tag.partition("=")
    return script("list").call(
        keys, index=index, lex=lex, prefix=query.prefix, statuses=list(query.status), name=query.name,
        tag_key=tag_key, tag_value=tag_value, created_from=query.created_from, created_to=query.created_to,
        last=last, last_score=score, limit=limit, scan=SCAN, decode=_page, idempotent=True,
    )  # fmt: skip


def _index_for(keys: Keys, query: Query) -> tuple[str, bool]:
    """The index that is likely to be the shortest, and whether it is walked by id."""
    if query.tag:
        if "=" not in query.tag:
            raise InvalidArgumentError(f"a tag is asked for as key=value, not {query.tag!r}")
        return keys.of("idx_tag", query.tag), False
    if query.prefix:
        return keys.path("idx_id"), True
    if len(query.status) == 1:
        return keys.of("idx_status", query.status[0]), False
    if query.name:
        return keys.of("idx_name", query.name), False
    return keys.path("idx_created"), False


def _page(reply: Any) -> Page:
    items, last, score = reply
    return Page(
        [_summary(i.decode(), r) for i, r in items], f"{score.decode()}:{last.decode()}" if last else ""
    )


def _summary(instance: str, r: Sequence[bytes]) -> Summary:
    name, version, status, created, updated, custom, tags, parent, waiting = (value.decode() for value in r)
    return Summary(
        instance=instance,
        name=name,
        version=version,
        status=status,
        created=int(created),
        updated=int(updated),
        custom=custom or None,
        tags=_tags.decode(tags or "{}"),
        parent=parent,
        waiting=waiting,
    )


def processes(keys: Keys) -> Call[list[Process]]:
    """Processes that have said something about themselves; `lapses_at` 0 when found dead."""

    def decode(reply: Any) -> list[Process]:
        return [Process(r[0].decode(), r[1], int(float(r[2]))) for r in reply]

    return script("processes").call(keys, decode=decode, idempotent=True)


def served(keys: Keys) -> Call[dict[str, list[str]]]:
    """What any process ever served: `o name` or `a name` to its versions."""

    def decode(reply: Any) -> dict[str, list[str]]:
        pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        return {name.decode(): _names.decode(versions) for name, versions in pairs}

    return command("HGETALL", keys.served, decode=decode)


def note_served(keys: Keys, names: dict[str, list[str]]) -> Call[int]:
    """A process says what it serves; versions noted before stay."""
    return script("note_served").call(keys, names=names, decode=int, idempotent=True)


def lengths(queue_keys: Sequence[str]) -> list[Call[int]]:
    """How many messages wait in each queue: one call each, for a pipeline."""
    return [command("LLEN", key, decode=int) for key in queue_keys]
