"""What a client refuses before anything is sent: ids, names, values, times.

Every refusal is a ClientError that says what is wrong, with which value, and what would be right.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import (
    CodecError,
    InvalidArgumentError,
    PayloadTooLargeError,
    UnknownNameError,
)

MAX_ID = 256
MAX_NAME = 256
MAX_EVENT_NAME = 100
MAX_REASON = 4096
_FORBIDDEN = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_id(instance_id: object, what: str = "instance id") -> str:
    """The id, when it is acceptable: 1-256 characters, not starting with @, none of / \\ # ? or controls."""
    if not isinstance(instance_id, str):
        raise InvalidArgumentError(f"an {what} is a string, not {type(instance_id).__name__}")
    if not 1 <= len(instance_id) <= MAX_ID:
        raise InvalidArgumentError(f"an {what} has 1 to {MAX_ID} characters; this one has {len(instance_id)}")
    if instance_id.startswith("@"):
        raise InvalidArgumentError(f"the {what} {instance_id!r} starts with '@', which is kept for entities")
    if found := _FORBIDDEN.search(instance_id):
        raise InvalidArgumentError(
            f"the {what} {instance_id!r} contains {found.group()!r} at position {found.start()}: "
            "none of / \\ # ? and no control characters are allowed"
        )
    _check_encodable(instance_id, what)
    return instance_id


def check_name(name: object, what: str, most: int = MAX_NAME) -> str:
    """A name (of an event, a queue, a key): 1 to `most` characters without control characters."""
    if not isinstance(name, str):
        raise InvalidArgumentError(f"the {what} is a string, not {type(name).__name__}")
    if not name.strip() or len(name) > most:
        raise InvalidArgumentError(f"the {what} has 1 to {most} characters and is not blank: {name[:40]!r}")
    if found := _CONTROL.search(name):
        raise InvalidArgumentError(f"the {what} {name!r} contains the control character {found.group()!r}")
    _check_encodable(name, what)
    return name


def _check_encodable(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"the {what} {text!r} is not valid Unicode: {error.reason}") from error


def check_reason(reason: object) -> str:
    """A reason: any text, cut to 4,096 characters."""
    if not isinstance(reason, str):
        raise InvalidArgumentError(f"a reason is a string, not {type(reason).__name__}")
    _check_encodable(reason, "reason")
    return reason[:MAX_REASON]


def check_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Tags: short names with short string values."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise InvalidArgumentError(f"tags are a mapping of strings, not {type(tags).__name__}")
    for key, value in tags.items():
        check_name(key, "name of a tag")
        if "=" in key:
            raise InvalidArgumentError(f"the name of a tag cannot contain '=': {key!r}")
        check_name(value, f"value of tag {key!r}")
    return dict(tags)


def encode_payload(value: object, what: str, limit: int) -> str | None:
    """The JSON text of a value; None stays None. Refuses what JSON cannot hold and what is over the limit."""
    if value is None:
        return None
    try:
        text = codec.encode(value)
    except CodecError as error:
        raise InvalidArgumentError(f"the {what} cannot be written as JSON: {error}") from error
    return check_size(text, what, limit)


def check_size(text: str, what: str, limit: int) -> str:
    """The text, unless it is over the hard limit in UTF-8."""
    size = len(text) if len(text) * 4 <= limit else len(text.encode())
    if size > limit:
        raise PayloadTooLargeError(
            f"the {what} is {size:,} bytes of JSON, over the limit of {limit:,} (CELERIAC_MAX_PAYLOAD); "
            "keep large data elsewhere and pass a reference to it"
        )
    return text


def due_millis(start_at: datetime | timedelta | None, now: Callable[[], datetime]) -> int:
    """The delayed start as milliseconds since the epoch; 0 for at once."""
    if start_at is None:
        return 0
    if isinstance(start_at, timedelta):
        start_at = now() + start_at
    if not isinstance(start_at, datetime):
        raise InvalidArgumentError(f"start_at is a datetime or a timedelta, not {type(start_at).__name__}")
    return max(0, (start_at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name nobody knows, with the names that look like it."""
    names = sorted(set(known))
    folded = {n.lower(): n for n in names}
    near = [folded[n] for n in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.6)]
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif names:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        hint = f"known: {shown}"
    else:
        hint = "none is known: name its module with --app or CELERIAC_APP, or run an orchestrator that has it"
    return UnknownNameError(f"no {kind} named {name!r} is registered or served; {hint}")


def unknown_version(name: str, version: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a version nobody has."""
    shown = ", ".join(repr(v) if v else "the one without a version" for v in sorted(set(known))) or "none"
    return UnknownNameError(f"orchestrator {name!r} has no version {version!r}; known versions: {shown}")


def describe(value: Any) -> str:
    """A short form of a value for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
