"""A history with all that is read beside it, as one JSON text: what `testing.replay_history` replays.

    {"events": [...], "payloads": {"@p1r": "..."}, "groups": {"3": [{"result": "..."}]}}

A plain JSON list of events is a recording too, as long as its events refer to nothing outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from .errors import CodecError
from .history import PAYLOAD_FIELDS, AnyEvent, GroupCompleted, PartOutcome
from .run import Payloads

__all__ = ["Recording"]


class Recording(msgspec.Struct, frozen=True, omit_defaults=True):
    """The history of one run; it is its own `Payloads`."""

    events: list[AnyEvent]
    payloads: dict[str, str] = {}  # "@field": JSON text
    groups: dict[int, list[PartOutcome]] = {}  # number of the group: how its parts ended

    @staticmethod
    def of(events: Sequence[AnyEvent], payloads: Payloads) -> Recording:
        """Record a history: everything that its events refer to is read from `payloads`."""
        groups = {e.seq: list(payloads.group(e.seq)) for e in events if isinstance(e, GroupCompleted)}
        texts = [getattr(event, field, None) for event in events for field in PAYLOAD_FIELDS]
        texts += [outcome.result for outcomes in groups.values() for outcome in outcomes]
        return Recording(list(events), {ref: payloads.text(ref) for ref in _references(texts)}, groups)

    @staticmethod
    def from_json(text: str | bytes) -> Recording:
        """Read a recording, or a list of events; CodecError for anything else."""
        data = text.encode() if isinstance(text, str) else text
        try:
            if data.lstrip().startswith(b"["):
                return Recording(_events.decode(data))
            return _recording.decode(data)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise CodecError(f"this is no recorded history: {error}") from error

    def to_json(self) -> str:
        """The recording as JSON; `from_json` reads it back."""
        return msgspec.json.encode(self).decode()

    def text(self, ref: str, /) -> str:
        """The text that a reference stands for."""
        if not ref.startswith("@"):
            return ref
        try:
            return self.payloads[ref]
        except KeyError:
            raise CodecError(f"the recording refers to the payload {ref} but does not hold it") from None

    def group(self, seq: int, /) -> Sequence[PartOutcome]:
        """How the parts of a finished group ended."""
        try:
            return self.groups[seq]
        except KeyError:
            raise CodecError(
                f"the recording does not hold the outcomes of the fan-out #{seq}; a list of events alone is "
                "enough only for histories without fan-outs"
            ) from None


def _references(texts: Iterable[str | None]) -> set[str]:
    return {text for text in texts if text is not None and text.startswith("@")}


_events = msgspec.json.Decoder(list[AnyEvent])
_recording = msgspec.json.Decoder(Recording)
