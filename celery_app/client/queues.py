"""The operations on trigger queues: for their users (push, sizes, poison, redrive) and for the listeners.

A trigger queue is a plain Redis list under its own name, so that any producer can LPUSH JSON to it. What the
listeners keep beside it lives in the hub (see docs/explanation/protocol.md).
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from celeriac.orchestrations.errors import CeleriacError, InvalidArgumentError
from celeriac.orchestrations.history import EventRaised

from ..settings import Settings
from ..store import FencedError, GoneError, Keys, command, flights, queues
from . import validation as check
from .driving import Operation, ask, ask_all
from .starting import Starting, UnfitInputError
from .state import iso, millis, moment

POISON = "-poison"
_QUEUE = re.compile(r"[^\x00-\x20\x7f{}]{1,128}")


class LostListenerError(CeleriacError):
    """The listener was taken for dead, or the message is no longer its own: drop it, another one has it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueueSizes:
    """How many messages a trigger queue holds."""

    queue: str
    waiting: int
    poison: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoisonMessage:
    """A message that was given up."""

    queue: str
    message: Any  # the JSON value, or the text when it is not JSON
    reason: str
    tries: int
    since: datetime

    def to_payload(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "queue": self.queue,
            "message": self.message,
            "reason": self.reason,
            "tries": self.tries,
            "since": iso(self.since),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TakenMessage:
    """A message in the record of a listener. `tries` counts this one."""

    queue: str
    listener: str
    number: str  # its field in the listener's record
    id: str  # the same at every take
    tries: int
    body: bytes

    @property
    def text(self) -> str:
        """The message as text; UnicodeDecodeError when it is none."""
        return self.body.decode()


class Queues:
    """Operations on trigger queues."""

    def __init__(self, keys: Keys, settings: Settings, starting: Starting) -> None:
        self._keys, self._settings, self._starting = keys, settings, starting
        self.seal = starting.seal
        self._counting = threading.Lock()
        self._next_number = 1  # of taken messages: never used twice under one listener

    # --- for users -------------------------------------------------------------------------------

    def sizes(self, names: Sequence[str]) -> Operation[tuple[QueueSizes, ...]]:
        """See Client.queue_sizes."""
        checked = [check_queue(name) for name in names]
        lists = [(name, self._keys.of("again", name), name + POISON) for name in checked]
        lengths = yield from ask_all([command("LLEN", key, decode=int) for three in lists for key in three])
        return tuple(
            QueueSizes(queue=name, waiting=lengths[3 * n] + lengths[3 * n + 1], poison=lengths[3 * n + 2])
            for n, name in enumerate(checked)
        )

    def push(self, queue: str, message: object) -> Operation[int]:
        """See Client.push."""
        check_queue(queue)
        text = check.encode_payload(message, "message", self._settings.max_payload)
        return (yield from ask(queues.push(queue, b"null" if text is None else text.encode())))

    def poison(self, queue: str, limit: int) -> Operation[tuple[PoisonMessage, ...]]:
        """See Client.poison."""
        check_queue(queue)
        if limit < 1:
            raise InvalidArgumentError(f"limit is 1 or more, not {limit}")
        found = yield from ask(queues.poisoned(queue, 0, limit - 1))
        return tuple(
            PoisonMessage(
                queue=queue,
                message=_value(entry.message),
                reason=self.seal.reading.told(str(entry.reason.get("reason", ""))),
                tries=int(entry.reason.get("tries", 0)),
                since=moment(int(entry.reason.get("since", 0))),
            )
            for entry in found
        )

    def redrive(self, queue: str, limit: int) -> Operation[int]:
        """See Client.redrive."""
        check_queue(queue)
        moved = 0
        while moved < limit:
            some = yield from ask(queues.redrive(self._keys, queue, min(100, limit - moved)))
            moved += some
            if some == 0:
                break
        return moved

    # --- for listeners ---------------------------------------------------------------------------

    def join(self, info: Mapping[str, Any], lease: float) -> Operation[str]:
        """A fresh listener that beats; returns its name."""
        listener = "t" + secrets.token_hex(8)
        text = json.dumps(info)
        yield from ask(flights.beat(self._keys, listener, round(lease * 1000), info=text, join=True))
        return listener

    def beat(self, listener: str, lease: float) -> Operation[None]:
        """Renew the lease; LostListenerError when it had lapsed."""
        try:
            yield from ask(flights.beat(self._keys, listener, round(lease * 1000)))
        except FencedError as error:
            raise LostListenerError(str(error)) from error

    def leave(self, listener: str) -> Operation[None]:
        """Sign off. What the listener still holds goes to others by the next sweep."""
        if (yield from ask(command("HLEN", self._record(listener), decode=int))):
            yield from ask(command("ZADD", self._keys.beats, "XX", 1, listener))
            return
        # Last of all the beat: who is listed there is found by the sweep, should this process die before.
        yield from ask(command("HDEL", self._keys.procs, listener))
        yield from ask(command("ZREM", self._keys.beats, listener))

    def take(self, queue: str, listener: str, limit: int) -> Operation[list[TakenMessage]]:
        """Take up to `limit` messages, oldest first."""
        with self._counting:
            base, self._next_number = self._next_number, self._next_number + limit
        try:
            taken = yield from ask(queues.take(self._keys, listener, queue, base, limit))
        except FencedError as error:
            raise LostListenerError(str(error)) from error
        return [
            TakenMessage(
                queue=queue, listener=listener, number=t.number, id=t.id, tries=t.tries + 1, body=t.message
            )
            for t in taken
        ]

    def held(self, queue: str, listener: str) -> Operation[list[TakenMessage]]:
        """What the listener's record holds of this queue, oldest first."""
        record: dict[bytes, bytes] = yield from ask(command("HGETALL", self._record(listener)))
        found: list[TakenMessage] = []
        for number, body in record.items():
            tries, message_id, name, message = body.split(b"\n", 3)
            if name.decode() == queue:
                found.append(
                    TakenMessage(
                        queue=queue,
                        listener=listener,
                        number=number.decode(),
                        id=message_id.decode(),
                        tries=int(tries) + 1,
                        body=message,
                    )
                )
        return sorted(found, key=lambda m: int(m.number))

    def wait(self, queue: str, seconds: float) -> Operation[bool]:
        """Until the queue is not empty, at most so many seconds; takes nothing."""
        return (yield from ask(queues.wait(queue, round(seconds, 3))))

    def start(
        self, message: TakenMessage, orchestrator: str, value: object, version: str | None
    ) -> Operation[str]:
        """The message becomes an instance: started and struck off in one transaction."""
        request = yield from self._starting.request(orchestrator, value, version=version)
        try:
            reply = yield from ask(queues.start_from(self._keys, message.listener, message.number, request))
        except GoneError as error:
            raise LostListenerError(str(error)) from error
        return reply.instance

    def raise_event(self, message: TakenMessage, name: str, value: object) -> Operation[None]:
        """The message becomes an event of the instance it names, in one transaction."""
        if not isinstance(value, dict) or not isinstance(value.get("instanceId"), str):
            raise UnfitInputError(
                'the message of an event trigger is {"instanceId": "...", "data": ...}, '
                f"not {check.describe(value)}"
            )
        target = check.check_id(value["instanceId"])
        text, aside = self._starting.put_aside(
            value.get("data"), "data of the event", "pe" + secrets.token_hex(6)
        )
        event = self.seal.open_text(EventRaised(name=name, input=text))
        try:
            yield from ask(
                queues.raise_from(
                    self._keys,
                    message.listener,
                    message.number,
                    target,
                    event,
                    f"trigger:{message.id}",
                    aside,
                )
            )
        except GoneError as error:
            raise LostListenerError(str(error)) from error

    def done(self, message: TakenMessage) -> Operation[None]:
        """Strike the message off: a starter has handled it."""
        struck = yield from ask(command("HDEL", self._record(message.listener), message.number, decode=int))
        if not struck:
            raise LostListenerError(f"message {message.id} of {message.queue} was given to another listener")

    def back(
        self, message: TakenMessage, *, max_tries: int = 0, reason: str = "", now: datetime | None = None
    ) -> Operation[str]:
        """Out of the record: "AGAIN" to be taken again, "POISON" after `max_tries` tries, "GONE" if not held.

        Without `max_tries` it counts as not tried.
        """
        why = {
            "reason": reason,
            "tries": message.tries,
            "since": millis(now or datetime.now(UTC)),
            "id": message.id,
        }
        return (
            yield from ask(
                queues.back(
                    self._keys, message.listener, message.number, max_tries, why, strike=max_tries > 0
                )
            )
        )

    def _record(self, listener: str) -> str:
        return self._keys.of("trig", listener)


def check_queue(name: object) -> str:
    """The name of a trigger queue, when it can be one."""
    if not isinstance(name, str) or not _QUEUE.fullmatch(name):
        raise InvalidArgumentError(
            f"{name!r} cannot be a queue: 1 to 128 characters, no blanks, no braces, no control characters"
        )
    if name.endswith(POISON):
        raise InvalidArgumentError(
            f"{name!r} is the poison list of {name.removesuffix(POISON)!r}; name that queue"
        )
    return name


def _value(text: bytes) -> Any:
    """The message as JSON, or as text when it is not."""
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="backslashreplace")
