"""A command becomes the exact bytes that Celery expects in its queue. Nothing here does any IO.

The envelope is built by Celery's and kombu's own code (`as_task_v2`, the task sender, `Producer.publish`,
`Channel.prepare_message`) on a channel that records instead of sending. That is done once for each
activity and set of options; the recorded text is kept in pieces, and for each message only what differs
is put in: id, body, delivery tag, group and our two headers. `tests/celery/test_emission.py` holds the
bytes against what `apply_async` would send.

The body is one opaque JSON string, `[[call], {}, ...]`, so that the broker's decoder never sees a user's
values.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Final, cast

import msgspec
from celery import Celery
from kombu.connection import Connection
from kombu.transport import get_transport_cls, virtual
from kombu.transport.redis import Channel as RedisChannel
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from celeriac.orchestrations.errors import CeleriacError
from celeriac.orchestrations.history import ActivityOptions

from .messages import JOIN_TASK, STEP_HEADER, STEP_META_HEADER, GroupRef, Notes, StepHeader
from .sealing import seal_of
from .settings import Settings
from .signing import SIGN_HEADER, sign

__all__ = ["ARGS_REPR", "KWARGS_REPR", "EmissionError", "Emitter", "OfflineTransport", "chord_signature"]

ARGS_REPR: Final = "(...)"  # arguments may be secret or large: Celery's logs and events never show them
KWARGS_REPR: Final = "{}"
HARD_LIMIT_GRACE: Final = 2.0  # seconds between the soft limit, which raises in the activity, and the kill

_SLOT: Final = re.compile(r'"@@celeriac-(\w+)@@"')
_NO_NOTES: Final = Notes()
_TIMES: Final = {"id": 3, "call": 1, "body": 1, "tag": 1, "step": 1, "meta": 1}
_TIMES_IN_GROUP: Final = {**_TIMES, "group": 2, "index": 1}


class EmissionError(CeleriacError):
    """Celery's own code made something else of a message than one push of what was asked for."""


class OfflineChannel(virtual.Channel):
    """Records what kombu's Redis channel would push: (key, payload). Never opens a socket."""

    supports_fanout = False
    sep = RedisChannel.sep
    priority_steps = RedisChannel.priority_steps
    global_keyprefix = RedisChannel.global_keyprefix
    from_transport_options = (
        *virtual.Channel.from_transport_options,
        "sep",
        "priority_steps",
        "global_keyprefix",
    )
    _q_for_pri = RedisChannel._q_for_pri
    priority = RedisChannel.priority

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.pushed: list[tuple[str, str]] = []

    def key(self, queue: str, priority: Any) -> str:
        """The list that a message of this priority goes to."""
        message = {"properties": {"priority": priority}}
        step = self._get_message_priority(message, reverse=False)
        return f"{self.global_keyprefix}{self._q_for_pri(queue, step)}"

    def _put(self, queue: str, message: Mapping[str, Any], **kwargs: Any) -> None:
        self.pushed.append((self.key(queue, message["properties"].get("priority")), dumps(message)))

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        """Queues need no declaration to be pushed to."""


class OfflineTransport(virtual.Transport):
    """A kombu transport that ends in an `OfflineChannel`."""

    Channel = OfflineChannel
    driver_type = "redis"
    driver_name = "offline"


def offline_connection(app: Celery) -> Connection:
    """A connection with the app's own transport options and channel class, that goes nowhere."""
    scheme = str(app.conf.broker_url or "redis://").partition("://")[0].partition("+")[0]
    transport = app.conf.broker_transport or scheme
    channel = getattr(get_transport_cls(transport), "Channel", RedisChannel)
    if not issubclass(channel, RedisChannel):
        raise EmissionError(
            f"the broker {transport!r} is not a Redis; Celeriac's messages can only go to Redis"
        )
    names = ("sep", "priority_steps", "global_keyprefix")
    inherited = {name: getattr(channel, name) for name in names}
    options = inherited | dict(app.conf.broker_transport_options)
    return Connection("memory://", transport=OfflineTransport, transport_options=options)


def chord_signature(group_id: str) -> dict[str, Any]:
    """The `chord` field of a group's part: Celery's tracer then calls the backend's on_chord_part_return."""
    return {
        "task": JOIN_TASK,
        "args": [],
        "kwargs": {},
        "options": {"task_id": group_id},
        "subtask_type": None,
        "immutable": True,
    }


def _mark(name: str) -> str:
    return f"@@celeriac-{name}@@"


class _Text:
    """A text in pieces: literal, slot, literal, slot, ..."""

    __slots__ = ("pieces", "slots")

    def __init__(self, text: str) -> None:
        self.pieces = _SLOT.split(text)
        self.slots = [(i, self.pieces[i]) for i in range(1, len(self.pieces), 2)]

    def fill(self, values: Mapping[str, str]) -> str:
        pieces = self.pieces.copy()
        for position, name in self.slots:
            pieces[position] = values[name]
        return "".join(pieces)


class _Template:
    """The recorded message of one activity and set of options."""

    __slots__ = ("body", "encode", "envelope", "key")

    def __init__(self, key: str, envelope: _Text, body: _Text, encode: Callable[[str], str]) -> None:
        self.key, self.envelope, self.body, self.encode = key, envelope, body, encode


class Emitter:
    """Makes activity messages for one app. Cheap to call, safe to use from threads."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._default_queue = settings.queue
        self._key, self._seal = settings.signing_key.encode(), seal_of(settings)
        self._templates: dict[tuple[str, str, int, int, bool], _Template] = {}
        self._tags = count()
        self._pid, self._origin = 0, ""

    def activity_message(
        self,
        name: str,
        task_id: str,
        step: str,
        call: str,
        options: ActivityOptions,
        first_at: int,
        group: GroupRef | None = None,
        notes: Notes = _NO_NOTES,
    ) -> tuple[str, bytes]:
        """The queue key and the message of one attempt; a new delivery tag each time."""
        which = (name, options.queue, options.priority, options.timeout, group is not None)
        template = self._templates.get(which)
        if template is None:
            template = self._templates[which] = self._record(*which)
        header = StepHeader(options, first_at, group.size if group else 0, notes)
        values = {
            "call": quoted(self._seal.call(call)),
            "id": quoted(task_id),
            "step": quoted(step),
            "meta": quoted(msgspec.json.encode(header).decode()),
            "tag": f'"{self._next_tag()}"',
        }
        if group is not None:
            values["group"] = quoted(group.id)
            values["index"] = str(group.index)
        values["body"] = quoted(template.encode(template.body.fill(values)))
        message = template.envelope.fill(values).encode("ascii")
        return template.key, sign(self._key, message) if self._key else message

    def queue_for(self, name: str, options: ActivityOptions) -> str:
        """Where an activity goes: its options' queue, else its own, else the default."""
        if options.queue:
            return options.queue
        activity = getattr(self._app.tasks.get(name), "activity", None)
        return (activity.options.queue if activity is not None else "") or self._default_queue

    def _next_tag(self) -> str:
        if self._pid != os.getpid():  # after a fork, the parent's tags must not come again
            self._pid, self._origin = os.getpid(), os.urandom(12).hex()
        return f"{self._origin}-{next(self._tags):x}"

    def _record(self, name: str, queue: str, priority: int, timeout: int, grouped: bool) -> _Template:
        """Let Celery and kombu build one message with marks in it, and take it apart at the marks."""
        channel, envelope_text, key = self._publish(name, queue, priority, timeout, grouped)
        envelope = loads(envelope_text)
        encoding = envelope["properties"].get("body_encoding")
        body = bytes_to_str(channel.decode_body(envelope["body"], encoding))
        envelope_text = envelope_text.replace(quoted(envelope["body"]), f'"{_mark("body")}"')
        template = _Template(
            key, _Text(envelope_text), _Text(body), lambda text: channel.encode_body(text, encoding)[0]
        )
        found = Counter(slot for _, slot in (*template.envelope.slots, *template.body.slots))
        wanted = _TIMES_IN_GROUP if grouped else _TIMES
        if found != wanted:
            wrong = sorted(slot for slot in wanted.keys() | found.keys() if found[slot] != wanted.get(slot))
            raise EmissionError(
                f"the message of activity {name!r} cannot be built: Celery's code left "
                f"{', '.join(wrong)} out of place. "
                "A before_task_publish receiver, task_compression or another serializer would do that."
            )
        return template

    def _publish(
        self, name: str, queue: str, priority: int, timeout: int, grouped: bool
    ) -> tuple[OfflineChannel, str, str]:
        app, limit = self._app, timeout / 1000
        signature = {SIGN_HEADER: ""} if self._key else {}
        message = app.amqp.as_task_v2(
            _mark("id"),
            name,
            args=[_mark("call")],
            kwargs={},
            argsrepr=ARGS_REPR,
            kwargsrepr=KWARGS_REPR,
            group_id=_mark("group") if grouped else None,
            group_index=_mark("index") if grouped else None,
            chord=chord_signature(_mark("group")) if grouped else None,
            reply_to=app.thread_oid,
            ignore_result=True,
            time_limit=limit + HARD_LIMIT_GRACE if timeout else None,
            soft_time_limit=limit if timeout else None,
        )
        with offline_connection(app) as connection:
            channel = cast(OfflineChannel, connection.channel())
            channel._next_delivery_tag = lambda: _mark("tag")
            app.amqp.send_task_message(
                app.amqp.Producer(channel, auto_declare=False),
                name,
                message,
                queue=queue or self.queue_for(name, ActivityOptions()),
                priority=priority,
                declare=(),
                retry=False,
                headers={STEP_HEADER: _mark("step"), STEP_META_HEADER: _mark("meta"), **signature},
            )
            if len(channel.pushed) != 1:
                raise EmissionError(
                    f"the message of activity {name!r} became {len(channel.pushed)} pushes instead of one: "
                    "is its queue bound to an exchange of another type than direct?"
                )
            key, payload = channel.pushed.pop()
        return channel, payload, key
