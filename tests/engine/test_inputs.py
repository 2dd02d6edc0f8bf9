"""What an orchestrator can take as its input, where a parent or a client does not know the function."""

from __future__ import annotations

from typing import Any

from celeriac.orchestrations import when_all


def test_a_child_that_cannot_take_its_input_fails_that_call(lab: Any) -> None:
    @lab.orchestrator
    async def wants(ctx: Any, n: int) -> int:
        return n

    @lab.orchestrator
    async def plain(ctx: Any) -> str:
        return "ran"

    @lab.orchestrator
    async def parent(ctx: Any) -> list[str]:
        calls = [ctx.call_sub_orchestrator(wants), ctx.call_sub_orchestrator(plain, 7)]
        outcomes = await when_all(calls, return_exceptions=True)
        return [str(outcome) for outcome in outcomes]

    lab.work()
    missing, needless = lab.run(parent).output
    assert "'wants'" in missing
    assert "none was given" in missing
    assert "'plain'" in needless
    assert "takes none" in needless
