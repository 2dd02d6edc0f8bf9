"""One run of the demo: bring the processes up, play the parts live, sum up, take everything down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from celeriac.celery_app import embedded
from celeriac.celery_app.client.sync import Client, OrchestrationState
from celeriac.celery_app.settings import Settings
from celeriac.orchestrations import history as kinds

from . import render, trees
from .common import fail
from .demo_parts import Finding, Part, States
from .exits import Exit
from .supervisor import Supervisor

UP_SECONDS: Final = 40.0
LOOK_SECONDS: Final = 0.25
STOP_SECONDS: Final = 5.0  # at the end there is nothing left to finish


class Run:
    """Everything the demo started."""

    def __init__(self, folder: Path, orchestrators: int, workers: int, timeout: float) -> None:
        self.folder, self.timeout = folder, timeout
        self._orchestrators, self._workers = orchestrators, workers
        self.out = render.console()
        self._log = (folder / "log.txt").open("a", encoding="utf-8")
        self._log_lock = threading.Lock()
        self._live: Live | None = None
        self._seen: dict[str, str] = {}
        self._redis: embedded.EmbeddedRedis | None = None
        self._client: Client | None = None
        self._supervisor: Supervisor | None = None
        self.settings = Settings()
        self.environment: dict[str, str] = {}

    @property
    def supervisor(self) -> Supervisor:
        """The supervisor of the child processes."""
        assert self._supervisor is not None, "up() comes first"
        return self._supervisor

    @property
    def client(self) -> Client:
        """A client of the demo's own Redis."""
        assert self._client is not None, "up() comes first"
        return self._client

    # --- up and down --------------------------------------------------------------------------

    def up(self, apps: str) -> None:
        """Start Redis, orchestrators and workers, and wait until each has reported itself."""
        from .demo import process_environment

        started = time.monotonic()
        self._redis = embedded.start(self.folder / "redis")
        # A shorter lease than in production: whoever kills a process here wants to see what happens.
        self.settings = Settings(redis_url=self._redis.url, apps=(apps,), lease=6.0, beat=1.0)
        temporary = self.folder / "tmp"  # of the children: goes with the folder, even if they are killed
        temporary.mkdir()
        self.environment = {
            **process_environment(),
            **self.settings.environment(),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(temporary),
        }
        self._client = Client(settings=self.settings)
        self._supervisor = Supervisor(
            self.environment, self._note, self._notice, self._revive_redis, stop_seconds=STOP_SECONDS
        )
        for n in range(1, self._orchestrators + 1):
            self._supervisor.add(f"orchestrator-{n}", ["orchestrator"])
        for n in range(1, self._workers + 1):
            self._supervisor.add(f"worker-{n}", ["worker", "--concurrency", "2"])
        self._supervisor.start()
        self.out.print(f"Redis at {self._redis.url}, pid {self._redis.pid}", markup=False)
        for child in self._supervisor.children.values():
            self.out.print(f"celeriac {' '.join(child.arguments)}, pid {child.pid}", markup=False)
        self._await_processes(started + UP_SECONDS)
        self.out.print(f"All up after {render.duration(time.monotonic() - started)}.\n")

    def _await_processes(self, deadline: float) -> None:
        def missing() -> set[int]:
            alive = {process.info.get("pid") for process in self.client.workers()}
            return {child.pid for child in self.supervisor.children.values()} - alive

        while missing():
            self._check_children()
            if time.monotonic() > deadline:
                fail(
                    f"the processes did not come up within {UP_SECONDS:g} s:\n{self.log_tail()}", Exit.FAILED
                )
            time.sleep(0.1)  # a beat is a line in Redis that nobody announces

    def down(self) -> None:
        """Stop everything that was started. Harmless when it is down already."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.stop()
        client, self._client = self._client, None
        if client is not None:
            client.close()
        if self._redis is not None:
            self._redis.stop()
        self._log.close()

    def _revive_redis(self) -> None:
        """Redis may be killed too: it comes back with everything it had acknowledged a second ago."""
        if self._redis is not None and not self._redis.is_running:
            self._notice("redis", "ended; starting it again on its data")
            self._redis.restart()

    # --- what the children say ----------------------------------------------------------------

    def _note(self, name: str, text: str) -> None:
        with self._log_lock:
            if not self._log.closed:
                print(f"{name} | {text}", file=self._log, flush=True)

    def _notice(self, name: str, text: str) -> None:
        self._note(name, f"* {text}")
        self._tell(f"{name}: {text}")

    def _tell(self, text: str) -> None:
        out: Console = self._live.console if self._live is not None else self.out
        out.print(Text(text, style="yellow"))

    def log_tail(self, lines: int = 30) -> str:
        """The end of what the children said."""
        text = (self.folder / "log.txt").read_text(encoding="utf-8")
        return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (nothing)"

    def _check_children(self) -> None:
        if self.supervisor.failure is not None:
            raise self.supervisor.failure

    # --- the play -----------------------------------------------------------------------------

    def play(self, parts: Sequence[Part]) -> bool:
        """Run all parts at once, check them and print the summary; True if everything was right."""
        started = time.monotonic()
        instances = {part.title: part.start(self.client) for part in parts}
        states = self._watch(parts, instances, started + self.timeout)
        took = time.monotonic() - started
        right = [self._check(part, instances[part.title], states) for part in parts]
        good = all(right)
        self.out.print()
        self._summary()
        self._verdict(good, took)
        return good

    def _check(self, part: Part, instances: Sequence[str], states: States) -> bool:
        """Print what the check of one part found; True if all of it was right."""
        self.out.print(Text(part.title, style="bold"))
        stuck = [name for name in instances if not states[name].is_final]
        if stuck:
            findings = [Finding(False, f"not ended in time: {', '.join(stuck)}")]
        else:
            findings = list(part.check(states))
        for finding in findings:
            mark, style = ("✓", "green") if finding.ok else ("✗", "red")
            text = Text(f"  {mark} ", style=style)
            self.out.print(text.append(finding.text, style="none" if finding.ok else style))
        return all(finding.ok for finding in findings)

    def _verdict(self, good: bool, took: float) -> None:
        words, style = ("Everything was right", "bold green") if good else ("It went wrong", "bold red")
        deaths = sum(child.restarts for child in self.supervisor.children.values())
        if deaths and good:
            words += f", although {deaths} process{'es' if deaths > 1 else ''} died"
        self.out.print(Text(words, style=style).append(f". {render.duration(took)}.", style="none"))

    def _watch(
        self, parts: Sequence[Part], instances: Mapping[str, list[str]], deadline: float
    ) -> dict[str, OrchestrationState]:
        show: Callable[[Sequence[Part], Mapping[str, list[str]]], dict[str, OrchestrationState]]
        show = self._frame if self.out.is_terminal else self._lines
        with Live(console=self.out, refresh_per_second=4, transient=True, auto_refresh=False) as live:
            self._live = live
            try:
                while True:
                    self._check_children()
                    states = show(parts, instances)
                    for part in parts:
                        part.meanwhile(self.client, states, self._tell)
                    if all(state.is_final for state in states.values()) or time.monotonic() > deadline:
                        return states
                    time.sleep(LOOK_SECONDS)  # the pace of the picture
            finally:
                self._live = None

    def _frame(
        self, parts: Sequence[Part], instances: Mapping[str, list[str]]
    ) -> dict[str, OrchestrationState]:
        states: dict[str, OrchestrationState] = {}
        picture: list[RenderableType] = []
        # Ten lines for the heads of instances and parts; the rest of the screen for what runs.
        room = max(3, (self.out.height - 14) // max(1, sum(map(len, instances.values()))))
        for part in parts:
            picture.append(Text(part.title, style="bold"))
            for name in instances[part.title]:
                progress = self.client.progress(name)
                states[name] = progress.state
                picture.append(trees.tree_of(progress, room))
        if self._live is not None:
            self._live.update(Group(*picture), refresh=True)
        return states

    def _lines(
        self, parts: Sequence[Part], instances: Mapping[str, list[str]]
    ) -> dict[str, OrchestrationState]:
        states: dict[str, OrchestrationState] = {}
        for name in (name for part in parts for name in instances[part.title]):
            progress = self.client.progress(name)
            states[name] = progress.state
            for line in trees.changes(progress, self._seen):
                self.out.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False)
        return states

    # --- the summary --------------------------------------------------------------------------

    def _summary(self) -> None:
        table = render.plain_table("Instance", "Status", "Outcome", "Took", "Activities", "Retries")
        table.padding = (0, 1, 0, 0)  # so that it fits into 80 columns
        for column in ("Took", "Activities", "Retries"):
            next(c for c in table.columns if c.header == column).justify = "right"
        total = [0, 0]
        for state, level in _family_order(self.client.iterate()):
            activities, retries = _counts(self.client.history(state.id))
            total = [total[0] + activities, total[1] + retries]
            table.add_row(
                Text(f"{'  ' * level}{state.id}"), render.status_text(state.status), Text(_outcome(state)),
                render.duration(render.age(state)), f"{activities:,}", str(retries) if retries else "",
            )  # fmt: skip
        table.add_row("", "", "", "", f"{total[0]:,}", str(total[1]), style="bold")
        self.out.print(table)


def _outcome(state: OrchestrationState) -> str:
    """The result in a word or two."""
    if state.failure is not None:
        error = state.failure.inner or state.failure
        return error.error_type.rpartition(".")[2]
    output = state.output
    if not isinstance(output, dict):
        return "" if output is None else str(output)
    return str(output.get("outcome") or f"{output.get('files', 0):,} files")


def _family_order(states: Iterable[OrchestrationState]) -> list[tuple[OrchestrationState, int]]:
    """Oldest first, children below their parents, each with its depth."""
    ordered = sorted(states, key=lambda state: state.created_at)

    def below(parent: str | None, level: int) -> list[tuple[OrchestrationState, int]]:
        found: list[tuple[OrchestrationState, int]] = []
        for state in ordered:
            if (state.parent_id or None) == parent:
                found += [(state, level), *below(state.id, level + 1)]
        return found

    return below(None, 0)


def _counts(events: Iterable[kinds.AnyEvent]) -> tuple[int, int]:
    """How many activities an instance asked for, and how often one was tried again."""
    activities = retries = 0
    for event in events:
        match event:
            case kinds.TaskScheduled():
                activities += 1
            case kinds.GroupScheduled(size=size):
                activities += size
            case kinds.TaskCompleted(attempts=attempts):
                retries += len(attempts)
            case kinds.TaskFailed(attempts=attempts):
                retries += max(0, len(attempts) - 1)
    return activities, retries
