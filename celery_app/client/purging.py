"""The operation behind `purge`: removing finished instances, with their children."""

from __future__ import annotations

import logging
from datetime import datetime

import msgspec

from celeriac.orchestrations.errors import (
    InstanceNotEndedError,
    InstanceNotFoundError,
    InvalidArgumentError,
)

from ..store import Keys, instances, views
from ..store.records import Query
from . import validation as check
from .driving import Operation, ask
from .querying import StatusFilter, query_of
from .state import FINAL, Status

logger = logging.getLogger("celeriac.client")

CHUNK = 100  # instances or children read at once


class Purging:
    """Purges by id or by conditions. What is removed leaves nothing behind but a line in the caller's log."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def purge(
        self,
        instance_id: str | None = None,
        *,
        status: StatusFilter = None,
        name: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        prefix: str | None = None,
        tag: str | None = None,
        reason: str = "",
    ) -> Operation[int]:
        """See Client.purge."""
        reason = check.check_reason(reason)
        conditions = {
            "status": status,
            "name": name,
            "created_from": created_from,
            "created_to": created_to,
            "prefix": prefix,
            "tag": tag,
        }
        given = {key: value for key, value in conditions.items() if value is not None}
        if instance_id is not None:
            if given:
                raise InvalidArgumentError("purge takes an instance id or conditions, not both")
            removed = yield from self._one(check.check_id(instance_id))
        else:
            if not given:
                raise InvalidArgumentError(
                    "purge wants an instance id or at least one condition (status, name, created_from, "
                    "created_to, prefix, tag); to remove every finished instance, name the statuses"
                )
            query = query_of(status, name, created_from, created_to, prefix, tag)
            final = tuple(s for s in query.status or sorted(FINAL) if s in FINAL)
            if not final:
                raise InvalidArgumentError(
                    f"only finished instances can be purged, not {', '.join(query.status)}"
                )
            removed = yield from self._all(msgspec.structs.replace(query, status=final))
        if reason:
            what = instance_id or ", ".join(f"{key} {value}" for key, value in given.items())
            logger.info("purged %s (instances removed: %d): %s", what, removed, reason)
        return removed

    def _one(self, instance_id: str, above: frozenset[str] = frozenset()) -> Operation[int]:
        """Children first, so that an interrupted purge can be repeated. A child that still runs stays.

        `above`: the ids on the way down to this one. Ids are used again, so two instances can each be the
        other's child.
        """
        record = yield from ask(views.get(self._keys, instance_id))
        if not Status(record.status).is_final:  # it may end now: without its children it must not go
            raise InstanceNotEndedError(
                f"instance {instance_id} has not ended ({record.status}); terminate it first"
            )
        removed = yield from self._below(instance_id, above | {instance_id})
        removed += yield from ask(instances.purge(self._keys, instance_id))
        return removed

    def _below(self, instance_id: str, above: frozenset[str]) -> Operation[int]:
        """The finished children of all its runs, some at a time."""
        removed, cursor = 0, ""
        while cursor != "0":
            cursor, children = yield from ask(instances.children(self._keys, instance_id, cursor or "0"))
            for child in children:
                if child in above:
                    continue
                try:
                    record = yield from ask(views.get(self._keys, child))
                    if record.parent == instance_id and Status(record.status).is_final:
                        removed += yield from self._one(child, above)
                except (InstanceNotFoundError, InstanceNotEndedError):
                    continue  # seen twice, or purged or started anew meanwhile
        return removed

    def _all(self, query: Query) -> Operation[int]:
        removed, cursor = 0, ""
        while True:
            page = yield from ask(views.list_instances(self._keys, query, cursor=cursor, limit=CHUNK))
            for summary in page.items:
                try:
                    removed += yield from self._one(summary.instance)
                except (InstanceNotFoundError, InstanceNotEndedError):
                    continue  # purged with its parent, or started anew, meanwhile
            cursor = page.cursor
            if not cursor:  # a page may be empty and yet have more after it
                return removed
