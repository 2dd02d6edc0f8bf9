"""How `make test` shares the suite out between two processes of pytest-xdist: what runs where, what first.

One process runs the whole of a file. The long files come first, so that at the end neither process is left
alone with one. Files that start crowds of processes are one lane: no two of them run at the same time,
because two crowds on two cores would be a test of the machine. Without `-n` nothing here plays a part.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling, Scheduling

CROWDS = {
    "tests/celery/test_deaths.py",
    "tests/celery/test_attack.py",
    "tests/trouble/test_absence.py",
    "tests/trouble/test_everysec.py",
    "tests/trouble/test_failover.py",
    "tests/trouble/test_lost_replies.py",
    "tests/trouble/test_rollback.py",
    "tests/chaos/test_short_run.py",
    "tests/chaos/test_recovery.py",
    "tests/e2e/test_demo.py",
    "tests/e2e/test_scale.py",
    "tests/smoke/test_benchmarks.py",
}
# Seconds of other files that take long, as measured on a busy machine. Only the order of the numbers matters.
LONG = {
    "tests/engine/test_processes.py": 345,
    "tests/celery/test_transport.py": 190,
    "tests/cli/test_dev.py": 150,
    "tests/cli/test_doctor.py": 130,
    "tests/engine/test_triggers_killed.py": 118,
    "tests/chaos/test_checker.py": 87,
    "tests/engine/test_poison.py": 82,
    "tests/simulation/test_simulation.py": 86,
    "tests/celery/test_boot.py": 55,
    "tests/celery/test_addresses.py": 47,
    "tests/faults/test_crash_sweep.py": 40,
    "tests/faults/test_rollback_points.py": 50,
    "tests/security/test_compose_acl.py": 20,
    "tests/security/test_hiding.py": 15,
    "tests/store/test_every_script.py": 40,
    "tests/celery/test_outcomes.py": 36,
}


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class Lanes(LoadFileScheduling):
    """A file is one unit of work, and all the crowds together are one."""

    def _split_scope(self, nodeid: str) -> str:
        file = _file(nodeid)
        return "crowds" if file in CROWDS else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Our order of the units instead of xdist's, which goes by the number of tests in them."""
    if config.option.dist != "loadfile":
        return None
    config.option.loadscopereorder = False
    return Lanes(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The crowds first, then the long files; stable, so that a file keeps its own order."""
    if hasattr(config, "workerinput"):  # a process of xdist
        items.sort(key=lambda item: (_file(item.nodeid) not in CROWDS, -LONG.get(_file(item.nodeid), 0)))
