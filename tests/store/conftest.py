"""A desk from which store tests play the processes: clients, orchestrators, workers, time."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from celeriac.celery_app.store import Keys, Store, instances, steps, turns
from celeriac.celery_app.store.records import (
    Claimed,
    Commit,
    CommitReply,
    OpenedStep,
    StartReply,
    StartRequest,
    new_execution,
    open_text,
)
from celeriac.orchestrations.errors import FailureDetails
from celeriac.orchestrations.history import (
    AnyEvent,
    ExecutionCompleted,
    ExecutionStarted,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    decode_event,
    encode_event,
)

sys.path.insert(0, str(Path(__file__).parent))  # the tests share modules of this directory

NOW = 1_700_000_000_000
QUEUE = "q1"


@dataclass
class Desk:
    """Plays one orchestrator and any workers at a time that tests move by hand."""

    store: Store
    now: int = NOW
    incarnation: str = "o1"
    numbers: Any = field(default_factory=lambda: itertools.count(1, 1000))

    def __post_init__(self) -> None:
        self.beat(self.incarnation)

    @property
    def keys(self) -> Keys:
        return self.store.keys

    @property
    def queue(self) -> str:
        """A queue of this test alone."""
        return f"{self.keys.hub}-queue"

    def beat(self, incarnation: str, lease: int = 10_000) -> None:
        self.store.client.zadd(self.keys.beats, {incarnation: self.now + lease})

    def heard(self) -> None:
        """Somebody has beaten all the while, so it is no silence."""
        self.store.client.hset(self.keys.path("heard"), "last", self.now)

    def request(self, instance: str, **more: Any) -> StartRequest:
        event = ExecutionStarted(
            execution=new_execution(),
            instance=instance,
            name=more.pop("name", "flow"),
            version=more.pop("version", ""),
            input=more.pop("input", "1"),
            tags=more.pop("tags", {}),
            parent=more.get("parent", ""),
        )
        more.pop("parent", None)
        return StartRequest.of(event, **more)

    def start(self, instance: str = "a", **more: Any) -> StartReply:
        return self.store.run(instances.start(self.keys, self.request(instance, **more), self.now))

    def claim(self, limit: int = 10, incarnation: str = "") -> list[Claimed]:
        who = incarnation or self.incarnation
        self.beat(who)
        return self.store.run(turns.claim(self.keys, who, next(self.numbers), limit, self.now))

    def claim_one(self) -> Claimed:
        (claimed,) = self.claim()
        return claimed

    def turn(self, claimed: Claimed, **more: Any) -> Commit:
        """A commit that applies everything the claim returned; `more` says what it asks for."""
        events = [t for t in (*claimed.controls, *claimed.inbox) if not t.startswith(b"E")]
        events += [encode_event(e) if not isinstance(e, bytes) else e for e in more.pop("events", ())]
        return Commit(
            instance=claimed.instance,
            execution=claimed.execution,
            claim=claimed.claim,
            base=claimed.history_length,
            events=events,
            controls=len(claimed.controls),
            inbox=len(claimed.inbox),
            **more,
        )

    def commit(self, turn: Commit) -> CommitReply:
        return self.store.run(turns.commit(self.keys, turn, self.now))

    def step(self, **more: Any) -> Claimed:
        """Claim the one ready instance and commit a turn."""
        claimed = self.claim_one()
        self.commit(self.turn(claimed, **more))
        return claimed

    def activity(self, seq: int, **more: Any) -> dict[str, Any]:
        """What a turn needs to open one plain activity."""
        message = OpenedStep(seq, self.queue, f"message {seq}".encode(), **more)
        return {"events": [TaskScheduled(seq=seq, name="act")], "messages": [message]}

    def end(self, status: str = "Completed") -> Claimed:
        """Claim and end the one ready instance."""
        done = ExecutionCompleted(output="1")
        return self.step(events=[done], status=status, output="1")

    def complete(
        self, claimed: Claimed, seq: int, *, attempt: int = 1, success: bool = True, **more: Any
    ) -> str:
        event = (
            TaskCompleted(seq=seq, result="7")
            if success
            else TaskFailed(seq=seq, failure=FailureDetails("builtins.ValueError", "no"))
        )
        text = more.pop("text", open_text(event))
        return self.store.run(
            steps.complete(
                self.keys, claimed.instance, claimed.execution, seq, attempt,
                success=success, text=text, now=self.now, **more,
            )
        )  # fmt: skip

    def inbox(self, instance: str = "a") -> list[AnyEvent | str]:
        items = self.store.client.lrange(self.keys.inbox(instance), 0, -1)
        return [i.decode() if i.startswith(b"E") else decode_event(i) for i in items]

    def history(self, instance: str = "a") -> list[AnyEvent]:
        return [decode_event(i) for i in self.store.client.lrange(self.keys.hist(instance), 0, -1)]

    def open(self, execution: str) -> dict[str, str]:
        raw = self.store.client.hgetall(self.keys.open(execution))
        return {k.decode(): v.decode() for k, v in raw.items()}

    def record(self, instance: str = "a") -> dict[str, str]:
        raw = self.store.client.hgetall(self.keys.inst(instance))
        return {k.decode(): v.decode() for k, v in raw.items()}

    def queued(self) -> list[str]:
        """The messages of the queue in the order in which they are consumed."""
        return [m.decode() for m in reversed(self.store.client.lrange(self.queue, 0, -1))]


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)
