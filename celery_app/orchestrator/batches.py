"""What a batch of answers is sent as: turns that stand side by side share a call, up to a bound.

A call by itself costs Redis a third of what a small turn does, and this process more than that: under load
many turns go out at once, so they share it. One turn alone, or one that is large, is sent as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..settings import Settings
from ..store import Call, Keys, Store, turns
from .answers import Done, Wait

TURNS = 32  # in one call, so that nobody else waits for Redis much longer than a millisecond
ITEMS = 200  # see Commit.items
BYTES = 64 * 1024


class Sending:
    """The calls for some answers, and what became of each of those."""

    def __init__(self, keys: Keys, settings: Settings, answers: Sequence[Done | Wait]) -> None:
        self._groups: list[list[Call[Any]]] = []
        items = size = 0
        together = False  # may the next turn join the last group?
        for answer in answers:
            if isinstance(answer, Wait):
                self._groups.append([answer.call(keys, settings)])
                together = False
                continue
            more, bytes_more = answer.draft.commit.items, len(turns.packed(answer.call))
            if (
                together
                and len(self._groups[-1]) < TURNS
                and items + more <= ITEMS
                and size + bytes_more <= BYTES
            ):
                self._groups[-1].append(answer.call)
                items, size = items + more, size + bytes_more
            else:
                self._groups.append([answer.call])
                items, size, together = more, bytes_more, True

    def calls(self) -> list[Call[Any]]:
        """What is to be sent."""
        return [turns.commit_all(group) if len(group) > 1 else group[0] for group in self._groups]

    def replies(self, store: Store, replies: Sequence[Any]) -> list[Any]:
        """The reply to each answer, from those to `calls()`. Turns whose call was refused as a whole are sent
        one by one: each is told for itself what is wrong.
        """
        out: list[Any] = []
        for group, reply in zip(self._groups, replies, strict=True):
            if len(group) == 1:
                out.append(reply)
            elif isinstance(reply, Exception):
                out += store.run_all(group)
            else:
                out += reply
        return out
