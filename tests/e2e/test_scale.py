"""A thousand orders over two orchestrators and three workers: all right, and each process did its part."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from celeriac.activities.shipped.orders import Payment, inspect_shop, open_shop
from celeriac.celery_app import Client
from celeriac.celery_app.settings import Settings

ORDERS = 1000
FATES = {  # every tenth order of each kind; the rest is shipped at once
    0: ({"card": "flaky:1"}, "shipped"),
    1: ({"card": "declined"}, "declined"),
    2: ({"address": "nowhere 7"}, "undeliverable"),
    3: ({"lines": [{"sku": "cake", "quantity": 10**6}]}, "out_of_stock"),
}
ROLES = {"orchestrator": 2, "worker": 3}

Fleet: TypeAlias = tuple[Settings, list[subprocess.Popen[bytes]]]


@pytest.fixture
def fleet(redis_server: Any, tmp_path: Path, hub: str) -> Iterator[Fleet]:
    """The processes, up and known; stopped by pid at the end."""
    settings = Settings(redis_url=redis_server.url, hub=hub, apps=("celeriac.orchestrations.examples",))
    running = []
    for role, count in ROLES.items():
        for number in range(count):
            with (tmp_path / f"{role}-{number}.log").open("wb") as log:
                command = [sys.executable, "-m", "celeriac.cli.main", role]
                environment = os.environ | settings.environment()
                running.append(
                    subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
                )
    try:
        yield settings, running
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=60)


def order(number: int, database: str) -> dict[str, Any]:
    plain = {"lines": [{"sku": "tea"}], "cents": 100}
    return plain | FATES.get(number % 10, ({}, ""))[0] | {"database": database, "order_id": f"o-{number}"}


@pytest.mark.timeout(240)
def test_a_thousand_orders(fleet: Fleet, tmp_path: Path) -> None:
    settings, running = fleet
    database = str(tmp_path / "shop.db")
    open_shop(database, {"tea": ORDERS, "cake": 1})
    wanted = {f"o-{n}": FATES.get(n % 10, ({}, "shipped"))[1] for n in range(ORDERS)}
    with Client(settings=settings) as client:
        end = time.monotonic() + 60
        while Counter(p.kind for p in client.workers()) != ROLES:
            assert time.monotonic() < end, "the processes did not come up"
            time.sleep(0.05)
        for number in range(ORDERS):
            client.start("fulfil_order", order(number, database), instance_id=f"o-{number}")
        states = [client.wait(instance, timeout=180) for instance in wanted]
        for state in states:
            client.purge(state.id)
    assert {state.id: state.output["outcome"] for state in states} == wanted
    shop = inspect_shop(database)
    fates = Counter(wanted.values())
    assert shop.stock == {"tea": ORDERS - fates["shipped"], "cake": 1}
    assert Counter(shop.payments.values()) == {
        Payment(100, "paid"): fates["shipped"],
        Payment(100, "refunded"): fates["undeliverable"],
    }
    for process in running:
        process.terminate()
    for process in running:
        process.wait(timeout=60)
    shares = {log.stem: done(log.read_text()) for log in tmp_path.glob("*.log")}
    assert len(shares) == sum(ROLES.values())
    assert min(shares.values()) > ORDERS / 20, f"a process hardly worked: {shares}"


def done(log: str) -> int:
    """Turns of an orchestrator, activities of a worker."""
    turns = re.search(r"has stopped after (\d+) turns", log)
    return int(turns[1]) if turns else len(re.findall(r"Task \S+ succeeded", log))
