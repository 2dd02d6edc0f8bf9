"""Payloads on their way to Redis and back: sealed by the codec of `Settings.codec`, or as they are.

One `Seal` for each process (`seal_of`). Whatever holds values of users passes through it, and nothing else
may write or read an event, an outcome or a payload that was put aside (tests/architecture/test_sealing.py):

- a *payload* (JSON text) becomes `<sealed:1:...>`, which JSON never begins with; a reference `@field` stays;
- a failure is sealed as a whole: of it only the type of the error stays to be read;
- a *note* (a reason, the message of a failed attempt) becomes such a token too, and a token is found again
  inside of what a script makes of it: "sub-orchestration x was terminated: <sealed:1:...>";
- a payload put aside is sealed after it was compressed, as bytes behind an `s`.

What is not sealed is read as it is, so a codec can be given to a hub that has work in it. A sealed payload,
failure or reason of an event that cannot be opened is a `SealedPayloadError`. For reading only
(`Seal.reading`, the client) it stays as it is: who asks for the value is told then. Ids, names, tags and
error types are not sealed.

Without a codec each call costs one comparison, and the same bytes are written as ever.
"""

from __future__ import annotations

import binascii
import importlib
import os
import re
import sys
import traceback
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from celeriac.orchestrations.errors import (
    Attempt,
    FailureDetails,
    InvalidArgumentError,
    SealedPayloadError,
    qualified_name,
)
from celeriac.orchestrations.history import PAYLOAD_FIELDS, AnyEvent, Event, decode_event, encode_event

from .settings import Settings
from .store import payloads
from .store.records import open_text

__all__ = ["FREE", "PLAIN", "SEALED", "PayloadCodec", "Seal", "hidden", "seal_of"]

FREE: Final = "(sealed)"  # stands for a text that is not shown
PREFIX: Final = "<sealed:"
_MARK: Final = PREFIX.encode()
SEALED: Final = f"{PREFIX}1:>"  # stands for a payload put aside that could not be opened
_TOKEN: Final = re.compile(r"<sealed:1:([A-Za-z0-9_=-]+)>")
_OURS: Final = qualified_name(SealedPayloadError)
_failures = msgspec.json.Decoder(FailureDetails)
_encoder = msgspec.json.Encoder()

T = TypeVar("T", bound=msgspec.Struct)


class PayloadCodec(Protocol):
    """What the factory that `CELERIAC_CODEC` names must return. Used from several threads at once."""

    def seal(self, data: bytes) -> bytes:
        """The sealed form; it need not be the same twice. Whatever it raises, nothing is written in clear."""
        ...

    def open(self, data: bytes) -> bytes:
        """What was given to `seal`; raises (anything) for what it did not seal, or was changed since."""
        ...


class Seal:
    """Seals and opens with one codec. `name` is what the process says of it; `writes` False only opens."""

    def __init__(
        self, codec: PayloadCodec | None = None, name: str = "", *, writes: bool = True, strict: bool = True
    ) -> None:
        self._codec, self.name, self._strict = codec, name, strict
        self._writer = codec if writes else None
        self._sealers: dict[str, Callable[[Any], Any]] = {
            "payload": self.text, "note": self.note, "said": self.note, "failure": self._seal_failure,
            "attempts": lambda attempts: tuple(map(self.sealed, attempts)),
        }  # fmt: skip
        self._openers: dict[str, Callable[[Any], Any]] = {
            "payload": self.clear, "note": self._open_note, "said": self.told, "failure": self._open_failure,
            "attempts": lambda attempts: tuple(map(self.opened, attempts)),
        }  # fmt: skip

    @property
    def reading(self) -> Seal:
        """The same for who only looks on: what cannot be opened stays sealed, or is shown as `(sealed)`."""
        return Seal(self._codec, self.name, writes=self._writer is not None, strict=False)

    # --- events, outcomes, attempts, failures ---

    def encode(self, event: Event) -> bytes:
        """The JSON of an event, as the history keeps it."""
        return encode_event(event if self._writer is None else self.sealed(event))

    def open_text(self, event: Any) -> bytes:
        """The open text (see store/records.py) of an event or PartOutcome."""
        return open_text(event if self._writer is None else self.sealed(event))

    def decode(self, data: bytes | str) -> AnyEvent:
        """Read an event; ValueError for what is none, SealedPayloadError."""
        event = decode_event(data)
        there = _MARK in data if isinstance(data, bytes) else PREFIX in data
        return self.opened(event) if there else event

    def sealed(self, value: T) -> T:
        """An event, outcome or attempt with all that users gave or raised sealed."""
        return value if self._writer is None else self._mapped(value, self._sealers)

    def opened(self, value: T) -> T:
        """The same with all of it opened; SealedPayloadError."""
        return self._mapped(value, self._openers)

    def attempt(self, attempt: Attempt) -> bytes:
        """The JSON of a failed attempt."""
        return _encoder.encode(self.sealed(attempt))

    def failure(self, failure: FailureDetails) -> str:
        """The JSON of a failure, as the record of an instance keeps it."""
        return _encoder.encode(self._seal_failure(failure)).decode()

    def read_failure(self, text: str) -> FailureDetails:
        """Read it again; SealedPayloadError."""
        return self._open_failure(_failures.decode(text))

    # --- single texts ---

    def text(self, text: str | None) -> str | None:
        """A payload sealed; None, a reference and what is sealed already stay. SealedPayloadError."""
        if self._writer is None or text is None or text[:1] == "@" or text.startswith(PREFIX):
            return text
        return self._token(text.encode())

    def call(self, text: str) -> str:
        """The same for what is never None: the call of an activity."""
        return cast(str, self.text(text))

    def clear(self, text: str) -> str:
        """A payload opened; SealedPayloadError."""
        if not text.startswith(PREFIX):
            return text
        match = _TOKEN.fullmatch(text)
        if match is None and self._strict:
            raise SealedPayloadError(
                "it was sealed in a form that this release does not know; run the release that wrote it"
            )
        try:
            return text if match is None else self._open(_unspelled(match[1])).decode()
        except SealedPayloadError:
            if self._strict:
                raise
            return text

    def note(self, text: str) -> str:
        """A note sealed. Never fails: what the codec does not seal is not kept."""
        if self._writer is None or not text:
            return text
        try:
            return self._token(text.encode("utf-8", "backslashreplace"))
        except SealedPayloadError as error:
            return f"(not kept: {error})"

    def told(self, text: str) -> str:
        """A text with the sealed notes in it opened; what cannot be opened stays, or shows as `(sealed)`."""
        if PREFIX not in text or (self._codec is None and self._strict):
            return text
        return _TOKEN.sub(self._told, text)

    @property
    def hides(self) -> bool:
        """Whether logs must not show what users gave or raised."""
        return self._writer is not None

    def masked(self, text: str) -> str:
        """What a log may show of a text that may hold values of users."""
        return FREE if self.hides else text

    def trace(self, error: BaseException) -> str:
        """What a log may show of an exception of a user's code: its stack, and with a codec no message."""
        if self._writer is None:
            return "".join(traceback.format_exception(error)).rstrip()
        stack = "".join(traceback.format_tb(error.__traceback__))
        return f"{stack}{qualified_name(type(error))}: {FREE}"

    def pack(self, text: str) -> bytes:
        """The blob to put aside for a payload; SealedPayloadError."""
        blob = payloads.pack(text)
        return blob if self._writer is None else b"s" + self._seal(blob)

    def unpack(self, blob: bytes) -> str:
        """The payload of a blob; SealedPayloadError."""
        if blob[:1] != b"s":
            return payloads.unpack(blob)
        try:
            return payloads.unpack(self._open(blob[1:]))
        except SealedPayloadError:
            if self._strict:
                raise
            return SEALED

    # --- how ---

    def _mapped(self, value: T, by: dict[str, Callable[[Any], Any]]) -> T:
        changed: dict[str, Any] = {}
        for name, kind in kinds_of(type(value)):
            old = getattr(value, name)
            if old and (new := by[kind](old)) is not old:
                changed[name] = new
        return msgspec.structs.replace(value, **changed) if changed else value

    def _seal_failure(self, failure: FailureDetails) -> FailureDetails:
        if self._writer is None or (failure.error_type == _OURS and not failure.inner):
            return failure  # ours says that a key is missing: it must be read without
        try:
            message = self._token(_encoder.encode(failure))
        except SealedPayloadError as error:
            message = f"(not kept: {error})"
        return FailureDetails(failure.error_type, message)

    def _open_failure(self, failure: FailureDetails) -> FailureDetails:
        """No exception has no bases; so a message that merely looks sealed is none."""
        if not failure.message or PREFIX not in failure.message:
            return failure
        match = None if failure.bases else _TOKEN.fullmatch(failure.message)
        if match is None:
            return msgspec.structs.replace(failure, message=self.told(failure.message))
        try:
            return _failures.decode(self._open(_unspelled(match[1])))
        except SealedPayloadError:
            if self._strict:
                raise
            return FailureDetails(failure.error_type, FREE)

    def _open_note(self, text: str) -> str:
        """The reason of an event. Code sees it: a run must not go on with another text."""
        match = _TOKEN.fullmatch(text) if self._strict else None
        return self.told(text) if match is None else self._open(_unspelled(match[1])).decode()

    def _told(self, match: re.Match[str]) -> str:
        try:
            return self._open(_unspelled(match[1])).decode()
        except SealedPayloadError:
            return match[0] if self._strict else FREE

    def _token(self, data: bytes) -> str:
        return f"{PREFIX}1:{urlsafe_b64encode(self._seal(data)).decode()}>"

    def _seal(self, data: bytes) -> bytes:
        assert self._writer is not None
        try:
            return self._writer.seal(data)
        except Exception as error:  # noqa: BLE001  a user's code may raise anything
            raise SealedPayloadError(
                f"the codec {self.name} could not seal: {type(error).__name__}"
            ) from None  # its message may hold what was to be sealed

    def _open(self, data: bytes) -> bytes:
        if self._codec is None:
            raise SealedPayloadError(
                "it was sealed with a codec, and this process has none; give it the CELERIAC_CODEC, and its "
                "keys, of the process that wrote it"
            )
        try:
            return self._codec.open(data)
        except Exception as error:  # noqa: BLE001  a user's code may raise anything
            raise SealedPayloadError(
                f"the codec {self.name} cannot open it: {type(error).__name__}: {error}"
            ) from None


PLAIN: Final = Seal()

_KINDS: Final = {
    "reason": "note",
    "failure": "failure",
    "attempts": "attempts",
    **dict.fromkeys(PAYLOAD_FIELDS, "payload"),
}


def hidden(text: str) -> str:
    """What a log shows of a text with sealed notes in it."""
    return _TOKEN.sub(FREE, text)


@cache
def kinds_of(cls: type[msgspec.Struct]) -> tuple[tuple[str, str], ...]:
    """The fields of an event, outcome or attempt that are sealed, and as what."""
    if issubclass(cls, Attempt):
        return (("message", "said"),)
    return tuple((name, _KINDS[name]) for name in cls.__struct_fields__ if name in _KINDS)


def _unspelled(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text)
    except (binascii.Error, ValueError):
        raise SealedPayloadError("what is sealed here was cut or changed") from None


# --- the codec of a process -----------------------------------------------------------------------


def seal_of(settings: Settings) -> Seal:
    """The process' seal. InvalidArgumentError for a codec that cannot be had or does not work."""
    if not settings.codec:
        return PLAIN
    return _made(settings.codec, settings.app_folder, settings.codec_seals)


@lru_cache(maxsize=16)
def _made(spec: str, folder: str, writes: bool) -> Seal:
    where = f"the codec {spec!r} (CELERIAC_CODEC)"
    folders = dict.fromkeys((os.getcwd(), os.path.abspath(folder)))
    sys.path[:0] = [each for each in folders if each not in sys.path]
    module, _, attribute = spec.partition(":")
    try:
        codec = getattr(importlib.import_module(module), attribute)()
        probe = codec.open(codec.seal(b"celeriac"))
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{where} cannot be used: {error}") from error
    except Exception as error:
        raise InvalidArgumentError(
            f"{where} cannot be used: {type(error).__name__}: {error}. It must name a function without "
            "arguments that returns an object with seal(bytes) -> bytes and open(bytes) -> bytes."
        ) from error
    if probe != b"celeriac":
        raise InvalidArgumentError(f"{where} does not open what it has sealed")
    names = ", ".join(map(str, getattr(codec, "key_names", ())))
    return Seal(codec, f"{spec} (keys {names})" if names else spec, writes=writes)
