"""The conditions of `list` and `purge`, checked, as a query of the store."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias

from celeriac.orchestrations.errors import InvalidArgumentError

from ..store.records import Query
from .state import Status, millis

StatusFilter: TypeAlias = "Status | str | Iterable[Status | str] | None"


def _statuses(status: StatusFilter) -> tuple[Status, ...]:
    if status is None:
        return ()
    given = [status] if isinstance(status, str) else list(status)
    by_name = {s.value.lower(): s for s in Status} | {"canceled": Status.CANCELLED}
    for one in given:
        if str(one).lower() not in by_name:
            raise InvalidArgumentError(
                f"no status {str(one)!r}; there are {', '.join(s.value for s in Status)}"
            )
    return tuple(dict.fromkeys(by_name[str(one).lower()] for one in given))


def query_of(
    status: StatusFilter,
    name: str | None,
    created_from: datetime | None,
    created_to: datetime | None,
    prefix: str | None,
    tag: str | None,
) -> Query:
    """The query; InvalidArgumentError for an unknown status, a time that is none, or a tag without `=`."""
    for what, when in (("created_from", created_from), ("created_to", created_to)):
        if when is not None and not isinstance(when, datetime):
            raise InvalidArgumentError(f"{what} is a datetime, not {type(when).__name__}")
    if tag is not None and "=" not in tag:
        raise InvalidArgumentError(f"a tag condition is written key=value, not {tag!r}")
    return Query(
        status=tuple(s.value for s in _statuses(status)),
        name=name or "",
        created_from=0 if created_from is None else millis(created_from),
        created_to=0 if created_to is None else millis(created_to),
        prefix=prefix or "",
        tag=tag or "",
    )
