"""Poisonous orchestrators in real processes, with healthy ones beside them: the healthy complete, the poison
ends alone, says where it stands, and goes on once it is mended and resumed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sites import Site

FAST = {
    "CELERIAC_TURN_DEADLINE": "0.7",
    "CELERIAC_LEASE": "3",
    "CELERIAC_BEAT": "0.4",
    "CELERIAC_MAX_CRASHES": "2",
    "CELERIAC_CACHE_SIZE": "3",  # so that executions are let go of
}


class Ward:
    """A site whose orchestrators are started again when they die, as any supervisor does."""

    def __init__(self, site: Site) -> None:
        self.site, self.deaths, self.environment = site, 0, dict(FAST)
        self.living: list[subprocess.Popen[bytes]] = []

    def _start(self) -> subprocess.Popen[bytes]:
        return self.site.start("orchestrator", **self.environment)

    def begin(self, **environment: str) -> None:
        """Start two orchestrators."""
        self.environment |= environment
        self.living = [self._start() for _ in range(2)]
        self.until(lambda: self.site.store.client.zcard(self.site.store.keys.beats) == len(self.living))

    def tend(self) -> None:
        for i, process in enumerate(self.living):
            if process.poll() is not None:
                self.deaths += 1
                self.living[i] = self._start()

    def until(self, condition: Any, timeout: float = 100) -> Any:
        def tended() -> Any:
            self.tend()
            return condition()

        return self.site.until(tended, timeout=timeout)

    def mend(self) -> None:
        """Deploy the fix."""
        self.environment["FLOWS_MENDED"] = "1"
        for process in self.living:
            process.terminate()
        for process in self.living:
            process.wait(30)
        self.living = [self._start() for _ in self.living]

    def suspended(self, instance: str) -> str:
        state = self.site.client.get(instance)
        return state.reason if state.status == "Suspended" else ""


@pytest.fixture
def ward(redis_server: Any, tmp_path: Path) -> Iterator[Ward]:
    """Two orchestrators with the poisons, once they are begun."""
    site = Site(redis_server.url, tmp_path, "flows_of_poison")
    try:
        yield Ward(site)
    finally:
        site.close()


def start_with_healthy(ward: Ward, kinds: list[str], **environment: str) -> tuple[dict[str, str], list[str]]:
    client = ward.site.client
    ward.begin(**environment)
    beside = [client.start("healthy", n) for n in range(15)]
    poisoned = {kind: client.start("poison", kind) for kind in kinds}
    beside += [client.start("healthy", n) for n in range(15, 30)]
    return poisoned, beside


def mend_and_resume(ward: Ward, instances: list[str]) -> None:
    client = ward.site.client
    ward.mend()
    for instance in instances:
        client.resume(instance, "mended")
    ward.until(lambda: all(client.get(i).status == "Completed" for i in instances))
    for instance in instances:
        assert client.get(instance).output == "mended"
        kinds = [type(event).__name__ for event in client.history(instance)]
        assert kinds.index("ExecutionSuspended") + 1 == kinds.index("ExecutionResumed")


def check_healthy(ward: Ward, beside: list[str]) -> None:
    client = ward.site.client
    ward.until(lambda: all(client.get(i).status == "Completed" for i in beside))
    assert [client.get(i).output for i in beside] == [n + 5 for n in range(30)]


LINES = {
    number: line.rpartition("# ")[2]
    for number, line in enumerate(Path(__file__).with_name("flows_of_poison.py").read_text().splitlines(), 1)
}


def test_what_does_not_return_is_suspended_and_says_at_which_line(ward: Ward) -> None:
    poisoned, beside = start_with_healthy(ward, ["loops", "sleeps", "goes_on", "swallows"])
    check_healthy(ward, beside)
    ward.until(lambda: all(ward.suspended(i) for i in poisoned.values()))
    for kind, instance in poisoned.items():
        reason = ward.suspended(instance)
        assert "ran longer than 0.7 s" in reason
        line = int(reason.partition("flows_of_poison.py:")[2].split()[0].strip(",.;()"))
        wanted = f"the line that {kind.replace('_', ' ')}"
        assert wanted in (LINES[line], LINES[line + 1]), reason  # of an empty loop, also its head
    assert ward.deaths <= 3, "only code that swallows the exception may cost its process"
    mend_and_resume(ward, list(poisoned.values()))


def test_what_ends_its_process_is_claimed_alone_and_suspended(ward: Ward) -> None:
    poisoned, beside = start_with_healthy(ward, ["exits", "aborts", "segfaults", "killed"])
    check_healthy(ward, beside)
    ward.until(lambda: all(ward.suspended(i) for i in poisoned.values()))
    for instance in poisoned.values():
        assert "its orchestrator process died 2 times" in ward.suspended(instance)
    assert 8 <= ward.deaths <= 12
    mend_and_resume(ward, list(poisoned.values()))


def test_memory_and_exceptions_that_are_none_cost_no_process(ward: Ward) -> None:
    poisoned, beside = start_with_healthy(ward, ["out_of_memory", "outcast"], CELERIAC_TURN_DEADLINE="20")
    check_healthy(ward, beside)
    ward.until(lambda: all(ward.suspended(i) for i in poisoned.values()))
    assert "ran out of memory" in ward.suspended(poisoned["out_of_memory"])
    assert "raised Outcast" in ward.suspended(poisoned["outcast"])
    assert ward.deaths == 0
    mend_and_resume(ward, list(poisoned.values()))


def test_an_execution_that_cannot_be_closed(ward: Ward) -> None:
    """Its `finally` runs when somebody lets it go: first outside any turn, then, alone, in its own."""
    client = ward.site.client
    ward.begin()
    stuck = client.start("cannot_be_closed")
    ward.until(lambda: client.get(stuck).status == "Running")
    beside = [client.start("healthy", n) for n in range(30)]
    check_healthy(ward, beside)
    record = ward.site.store.keys.inst(stuck)
    ward.until(lambda: ward.site.store.client.hget(record, "suspect"))  # it was let go of
    client.raise_event(stuck, "noise")
    ward.until(lambda: ward.suspended(stuck))
    reason = ward.suspended(stuck)
    assert "closing an execution" in reason or "a turn of cannot_be_closed" in reason
    ward.mend()
    client.resume(stuck)
    client.raise_event(stuck, "go")
    assert ward.until(lambda: (s := client.get(stuck)).status == "Completed" and s).output == "mended"


def test_ordinary_errors_fail_the_instance_at_once(ward: Ward) -> None:
    client = ward.site.client
    poisoned, beside = start_with_healthy(ward, ["recurses", "quits"], CELERIAC_TURN_DEADLINE="20")
    wanted = {
        poisoned["recurses"]: "RecursionError",
        poisoned["quits"]: "SystemExit",
        client.start("returns_much"): "PayloadTooLargeError",
        client.start("asks_for_much"): "LimitExceededError",
        client.start("counts", "no number"): "CodecError",
    }
    ward.until(lambda: all(client.get(i).status == "Failed" for i in wanted))
    for instance, error in wanted.items():
        failure = client.get(instance).failure
        assert failure is not None
        assert failure.is_caused_by(error), failure
    large = next(client.get(i).failure for i, error in wanted.items() if error == "PayloadTooLargeError")
    assert "100,000,002 bytes as JSON; the limit is 8,388,608" in str(large)
    check_healthy(ward, beside)
    assert ward.deaths == 0
