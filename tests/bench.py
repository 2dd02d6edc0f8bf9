"""Real Celery workers on a real Redis, and a bench that plays the orchestrator for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from celeriac.celery_app.emission import Emitter
from celeriac.celery_app.messages import GroupRef, Notes, TaskId
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store, flights, instances, turns
from celeriac.celery_app.store.records import Commit, GroupOpen, OpenedStep, StartRequest, new_execution
from celeriac.orchestrations.history import ActivityOptions, AnyEvent, ExecutionStarted, decode_event

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 20, what: str = "") -> T:
    """Until the condition is true; its value."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)


@dataclass
class Bench:
    """Opens steps as an orchestrator's commit does, and reads what workers made of them."""

    settings: Settings
    store: Store
    emitter: Emitter
    app: Any
    numbers: int = 0
    _bases: dict[str, int] = field(default_factory=dict)

    def start(self, instance: str) -> str:
        """A new instance; its execution id."""
        event = ExecutionStarted(execution=new_execution(), instance=instance, name="flow")
        return self.store.run(instances.start(self.store.keys, StartRequest.of(event))).execution

    def commit(self, instance: str, execution: str, **more: Any) -> None:
        """Claim the instance and commit a turn that applies all of its inbox and opens something."""
        keys = self.store.keys
        self.store.run(flights.beat(keys, "o0", 60_000, join=self.numbers == 0))
        self.numbers += 100
        claimed = {c.instance: c for c in self.store.run(turns.claim(keys, "o0", self.numbers, 50))}
        for name, claim in claimed.items():
            if name != instance:
                self.store.run(turns.release(keys, name, claim.claim, 60_000, ""))
        claim = claimed[instance]
        turn = Commit(
            instance=instance, execution=execution, claim=claim.claim, base=claim.history_length,
            inbox=len(claim.inbox), events=list(claim.inbox), **more,
        )  # fmt: skip
        self.store.run(turns.commit(keys, turn))

    def step(
        self,
        instance: str,
        execution: str,
        name: str,
        call: str,
        *,
        seq: int = 1,
        group: GroupRef | None = None,
        notes: Notes | None = None,
        **options: Any,
    ) -> OpenedStep:
        """A step to open, with its message."""
        task = TaskId(execution, seq, 1, instance)
        key, message = self.emitter.activity_message(
            name, str(task), task.step, call, ActivityOptions(**options), int(time.time() * 1000), group,
            notes or Notes(),
        )  # fmt: skip
        return OpenedStep(seq, key, message, group=group.seq if group else -1)

    def call(self, instance: str, name: str, call: str, **options: Any) -> str:
        """Start an instance that calls one activity; its execution id."""
        execution = self.start(instance)
        self.commit(instance, execution, messages=[self.step(instance, execution, name, call, **options)])
        return execution

    def group(self, instance: str, calls: list[tuple[str, str]], **options: Any) -> str:
        """Start an instance that fans out over one group, with seqs from 1."""
        execution = self.start(instance)
        steps = [
            self.step(
                instance, execution, name, call, seq=1 + i, group=GroupRef(f"{execution}:1", i, len(calls)),
                **options,
            )
            for i, (name, call) in enumerate(calls)
        ]  # fmt: skip
        opened = GroupOpen(1, len(calls), len(calls), len(calls))
        self.commit(instance, execution, messages=steps, groups=[opened])
        return execution

    def inbox(self, instance: str) -> list[AnyEvent]:
        """What came for the instance since its last turn."""
        self.promote()
        return [decode_event(i) for i in self.store.client.lrange(self.store.keys.inbox(instance), 0, -1)]

    def outcome(self, instance: str, seconds: float = 20) -> Any:
        """The first completion of the instance."""
        return wait_for(lambda: self.inbox(instance), seconds, f"an event for {instance}")[0]

    def open(self, execution: str) -> dict[str, str]:
        """The open steps and groups of an execution."""
        raw: dict[Any, Any] = self.store.client.hgetall(self.store.keys.open(execution))
        return {name.decode(): value.decode() for name, value in raw.items()}

    def parts(self, execution: str) -> list[bytes]:
        """Outcomes of the parts of the group 1, by index."""
        raw: dict[Any, Any] = self.store.client.hgetall(self.store.keys.pay(execution))
        size = sum(name.startswith(b"g1:") for name in raw)
        return [raw[f"g1:{i}".encode()] for i in range(size)]

    def group_ref(self, execution: str, index: int, size: int) -> GroupRef:
        """A part of the group 1."""
        return GroupRef(f"{execution}:1", index, size)

    wait_for = staticmethod(wait_for)

    def promote(self) -> None:
        """What orchestrators and workers do all the time: move due retries to their queues."""
        self.store.run(flights.promote(self.store.keys))


class Workers:
    """Starts Celery workers as a user would and stops them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(
        self, pool: str, *more: str, settings: Settings | None = None, wait: bool = True,
        before: tuple[str, ...] = (), **variables: str,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        """A worker with this pool, ready to take. `before` are options of celery itself."""
        log = self.folder / f"worker-{len(self.running)}.log"
        command = [
            sys.executable, "-m", "celery", "-A", "celeriac.celery_app", *before, "worker",
            "-P", pool, "-c", "2",
            "-n", f"{pool}{len(self.running)}@test", "-l", "INFO", *more,
        ]  # fmt: skip
        env = {**os.environ, **(settings or self.settings).environment(), **variables}
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=env,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        if wait:
            self.wait_ready(process)
        return process

    def wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Until the worker takes messages."""
        wait_for(
            lambda: " ready." in self.log(process) or process.poll() is not None, 30, "a worker to be ready"
        )
        assert process.poll() is None, self.log(process)

    def log(self, process: subprocess.Popen[bytes]) -> str:
        """What the worker has written so far."""
        return (self.folder / f"worker-{self.running.index(process)}.log").read_text()

    def stop(self) -> None:
        """End every worker and its children, by the process group that was started for it."""
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
