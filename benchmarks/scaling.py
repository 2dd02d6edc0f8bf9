"""W10: W2 with more orchestrators and more solo workers, against one of each."""

from __future__ import annotations

import statistics

from .rows import Row
from .stage import Stage
from .workloads import sequence

SOLO = ["--pool", "solo"]


def scaling(stage: Stage) -> list[Row]:
    """Steps a second of each configuration, each round through all of them, so that noise falls on all.

    The ratio of a round is to the configuration of one orchestrator and one worker in that round.
    """
    instances = stage.n(400)
    run = sequence("W2", "", instances, 5)
    crowds = [(1, 1), (2, 2)] if stage.smoke else [(o, w) for o in (1, 2, 3) for w in (1, 2, 3, 4)]
    rates: dict[tuple[int, int], list[float]] = {crowd: [] for crowd in crowds}
    for _ in range(stage.repeat):
        for orchestrators, workers in crowds:
            # A smoke run takes its shared site for the smaller one: its figures mean nothing anyway.
            site = stage.site if (orchestrators, workers) == (1, 1) else stage.own_site
            with site("solo", orchestrators=orchestrators, options=[SOLO] * workers) as ours:
                if not stage.smoke:
                    run.ours(ours)  # unmeasured
                rates[orchestrators, workers].append(run.steps / run.ours(ours))
    return [
        Row(
            "W10", f"{instances} sequences of 5: {o} orchestrators, {w} workers", "steps/s", found, "solo",
            raw=rates[1, 1], raw_shape="1 + 1", rate=True, counts=(o, w) != (1, 1), against="one of each",
            facts={"orchestrators": o, "workers": w, "median": statistics.median(found)},
        )
        for (o, w), found in rates.items()
    ]  # fmt: skip
