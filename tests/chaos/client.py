"""The client process of a chaos run: `python -m tests.chaos.client FOLDER SEED RATE IN_FLIGHT`.

Keeps starting work at a bounded rate and number in flight, and does to it what its case says. Every step is
written to `client.jsonl` before it is tried and after it was acknowledged, and read back at a start, so the
process may be killed at any instant. SIGTERM: start nothing new, finish every action, exit with 0.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celeriac.celery_app import Client
from celeriac.orchestrations.errors import (
    ClientError,
    InstanceEndedError,
    InstanceNotEndedError,
    InstanceNotFoundError,
    RedisUnavailableError,
)

from .model import Case, case
from .workflows import QUEUE

POLL = 0.25  # seconds between two looks at what is in flight
AGAIN = 0.3  # seconds until something is tried again that Redis did not answer


@dataclass
class Work:
    """One case under way. `done` counts its actions; -1: not started."""

    case: Case
    done: int = -1
    tried: bool = False  # the next step may have been applied
    due: float = 0.0


class Worker:
    """Everything in flight, and its log."""

    def __init__(self, folder: Path, seed: int, rate: float, most: int) -> None:
        self._path = folder / "client.jsonl"
        self._seed, self._rate, self._most = seed, rate, most
        self._next = 0
        self._flying: dict[int, Work] = {}
        self._stopping = False
        self._recall()
        self._log = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _recall(self) -> None:
        for line in read_lines(self._path):
            number = line["number"]
            self._next = max(self._next, number + 1)
            work = self._flying.setdefault(number, Work(case(self._seed, number)))
            if line["what"] == "try":
                work.tried = True
            elif line["what"] == "ack":
                work.done, work.tried = line["step"] + 1, False
            else:
                del self._flying[number]
        for work in list(self._flying.values()):
            if work.case.is_message:  # a push that may have been applied is not repeated
                del self._flying[work.case.number]

    def _note(self, what: str, work: Work, **more: Any) -> None:
        line = {"what": what, "number": work.case.number, "step": work.done, "at": time.time(), **more}
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def run(self, client: Client) -> None:
        """Until asked to stop and every action is done."""
        start_at = look_at = time.monotonic()
        while True:
            now = time.monotonic()
            if not self._stopping and now >= start_at and len(self._flying) < self._most:
                start_at = max(start_at + 1 / self._rate, now - 1)
                self._flying[self._next] = Work(case(self._seed, self._next))
                self._next += 1
            for work in list(self._flying.values()):
                if work.due <= now and work.done < len(work.case.actions):
                    self._advance(client, work)
            if now >= look_at:
                self._look(client)
                look_at = time.monotonic() + POLL
            if self._stopping and all(w.done >= len(w.case.actions) for w in self._flying.values()):
                return
            time.sleep(0.01)

    def _advance(self, client: Client, work: Work) -> None:
        """Try the next step of this work; note that it is tried, and that it was acknowledged."""
        again = work.tried
        if not again:
            self._note("try", work)
        work.tried = True
        try:
            self._apply(client, work)
        except InstanceNotFoundError as error:
            # Purged: the answer to an earlier try was lost.
            self._note("ack" if again and self._is_purge(work) else "refused", work, error=str(error))
        except InstanceNotEndedError:
            work.due = time.monotonic() + AGAIN
            return
        except InstanceEndedError as error:
            # An earlier try was applied, its answer was lost, and the instance has ended since.
            self._note("ack", work, ended=str(error))
        except RedisUnavailableError:
            if work.case.is_message:
                self._note("unsure", work)
                del self._flying[work.case.number]
            work.due = time.monotonic() + AGAIN
            return
        except ClientError as error:
            self._note("refused", work, error=f"{type(error).__name__}: {error}")
            del self._flying[work.case.number]
            return
        else:
            self._note("ack", work)
        work.done, work.tried = work.done + 1, False
        if work.done < len(work.case.actions):
            work.due = time.monotonic() + work.case.actions[work.done].after

    def _apply(self, client: Client, work: Work) -> None:
        case = work.case
        if work.done < 0:
            if case.is_message:
                client.push(QUEUE, case.input)
            else:
                client.start(case.orchestrator, case.input, instance_id=case.id, idempotency_key=case.id)
            return
        action = case.actions[work.done]
        if action.verb == "event":
            client.raise_event(case.id, "Number", action.data, dedup_key=f"{case.id}-{work.done}")
        else:
            getattr(client, action.verb)(case.id)

    def _is_purge(self, work: Work) -> bool:
        return work.done >= 0 and work.case.actions[work.done].verb == "purge"

    def _look(self, client: Client) -> None:
        """Let go of what has ended."""
        for work in list(self._flying.values()):
            if work.done < len(work.case.actions):
                continue
            try:
                gone = work.case.is_message or work.case.purged
                if gone or client.get(work.case.id).is_final:
                    self._note("ended", work)
                    del self._flying[work.case.number]
            except RedisUnavailableError:
                return
            except ClientError as error:
                self._note("refused", work, error=f"{type(error).__name__}: {error}")
                del self._flying[work.case.number]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log that were written whole."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)


def main() -> None:
    """Run until asked to stop."""
    folder, seed, rate, most = sys.argv[1:5]
    with Client() as client:
        Worker(Path(folder), int(seed), float(rate), int(most)).run(client)


if __name__ == "__main__":
    main()
