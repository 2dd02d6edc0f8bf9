"""Type checkers see the client as its users do: inputs of declared orchestrators, and typed outputs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

CODE = """
from dataclasses import dataclass
from celeriac.celery_app import AsyncClient, Client
from celeriac.orchestrations import OrchestrationContext, orchestrator

@dataclass
class Order:
    n: int

@orchestrator
async def flow(ctx: OrchestrationContext, order: Order) -> int:
    return order.n

@orchestrator
async def bare(ctx: OrchestrationContext) -> int:
    return 1

def blocking(client: Client) -> None:
    reveal_type(client.start(flow, Order(1)))
    client.start("flow", {"n": 1})
    client.start(bare)
    client.start(flow, 3)  # wrong
    client.start(flow, Order(1), on_conflict="replace")  # wrong
    reveal_type(client.wait("a").output_as(Order))
    reveal_type([state.status for state in client.list(status="Running")])

async def awaiting(client: AsyncClient) -> None:
    reveal_type(await client.start(flow, Order(1)))
    await client.start(flow, "three")  # wrong
    reveal_type((await client.wait("a")).raise_if_failed().output_as(list[Order]))
"""


def test_pyright_sees_the_verbs_as_meant(tmp_path: Path) -> None:
    file = tmp_path / "user.py"
    file.write_text(CODE)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("pyright")), "--pythonpath", sys.executable, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    wrong = [n for n, line in enumerate(CODE.splitlines(), 1) if line.endswith("# wrong")]
    errors = {int(n) for n in re.findall(r"user\.py:(\d+):\d+ - error", done.stdout)}
    assert errors == set(wrong), done.stdout
    assert re.findall(r'is "(.*)"', done.stdout) == ["str", "Order", "list[Status]", "str", "list[Order]"]
