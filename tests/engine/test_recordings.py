"""A recorded history replays in a user's own tests, with everything that was kept beside it."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.orchestrations import NonDeterminismError, when_all
from celeriac.orchestrations.testing import replay_history


def test_a_recording_holds_fan_outs_and_large_payloads(lab: Any) -> None:
    @lab.activity
    def repeat(text: str, times: int) -> str:
        return text * times

    @lab.orchestrator
    async def spread(ctx: Any, text: str) -> int:
        small = await when_all([ctx.call_activity(repeat, "x", n) for n in range(40)])
        large = await when_all([ctx.call_activity(repeat, text, n) for n in (1, 2)])
        return sum(map(len, [*small, *large]))

    lab.up()
    state = lab.run(spread, "y" * 100_000)
    assert state.output == sum(range(40)) + 300_000
    recording = lab.client.record(state.id)
    text = recording.to_json()
    assert len(recording.groups) == 2
    assert recording.payloads
    turn = replay_history(spread, text, registry=lab.registry)
    assert turn.events == []

    @lab.orchestrator(name="spread", version="2")
    async def changed(ctx: Any, text: str) -> int:
        return len(await ctx.call_activity(repeat, text, 1))

    with pytest.raises(NonDeterminismError):
        replay_history(changed, text, registry=lab.registry)
