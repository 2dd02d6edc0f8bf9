"""What a starter is given beside the message: a client whose effects happen once per message.

A message may be handled more than once: its listener may be killed after the starter ran and before the
message was struck off, and then another listener gets it. So every start and every event that a starter asks
for carries a key made of the message's id and a count; asking again under the same key changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from celeriac.orchestrations.registry import Orchestrator

from ..client.sync import Client, OnConflict

I = TypeVar("I")  # noqa: E741  I for input, as in registry.py


class MessageClient(Client):
    """A `Client` bound to one message of a trigger queue."""

    def __init__(self, client: Client, queue: str, message_id: str, tries: int) -> None:
        self.settings = client.settings
        self.operations = client.operations
        self._store = client._store
        self._owns_store = False
        self.queue = queue
        self.message_id = message_id
        self.tries = tries
        self._count = 0

    def start(
        self,
        orchestrator: str | Orchestrator[I, Any],
        input: I | None = None,
        *,
        instance_id: str | None = None,
        idempotency_key: str | None = None,
        start_at: datetime | timedelta | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        on_conflict: OnConflict = "fail",
    ) -> str:
        """As Client.start; without an `idempotency_key` of yours the start happens once per message."""
        return super().start(
            orchestrator,
            input,
            instance_id=instance_id,
            idempotency_key=self._key() if idempotency_key is None else idempotency_key,
            start_at=start_at,
            version=version,
            tags=tags,
            on_conflict=on_conflict,
        )

    def raise_event(
        self, instance_id: str, name: str, data: Any = None, *, dedup_key: str | None = None
    ) -> None:
        """As Client.raise_event; without a `dedup_key` of yours the event arrives once per message."""
        super().raise_event(instance_id, name, data, dedup_key=dedup_key or self._key())

    def _key(self) -> str:
        self._count += 1
        return f"trigger:{self.queue}:{self.message_id}:{self._count}"
