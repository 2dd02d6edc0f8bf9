"""The laws over programs that nobody wrote."""

from __future__ import annotations

import random
from typing import Any

from generated import EVENTS, PROGRAM, programs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import World

from celeriac.orchestrations.history import AnyEvent, decode_event, encode_event
from celeriac.orchestrations.replay import Execution

GENERATED = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)


@GENERATED
@given(PROGRAM, EVENTS, st.booleans(), st.integers(0, 2**16))
def test_the_laws_hold(statements: list[Any], events: list[Any], cancel: bool, seed: int) -> None:
    program, _ = programs(statements, events, cancel)
    (recording,) = World(program, seed).run()
    chance = random.Random(seed)
    outside, history = recording.outside, recording.history
    # Replay from some places, twice.
    for done, upto in chance.sample(list(enumerate(recording.boundaries)), k=min(4, len(outside) + 1)):
        once, twice = (recording.replay(upto, outside[done:]) for _ in range(2))
        assert once == twice
        assert history[:upto] + once.events == history
    # Some splits, now and then losing the live execution; events go through their written form.
    for _ in range(4):
        live, found, rest = Execution(program.definition, recording.payloads), list[AnyEvent](), list(outside)
        while rest:
            size = chance.randint(1, 4)
            turn = live.advance(rest[:size])
            found += [decode_event(encode_event(event)) for event in turn.events]
            rest = rest[size:]
            if chance.random() < 0.3:
                live.close()
                live = Execution(program.definition, recording.payloads)
                live.replay(found)
        live.close()
        assert found == history


@GENERATED
@given(PROGRAM, EVENTS, st.booleans(), st.integers(0, 2**16))
def test_both_author_styles_do_the_same(
    statements: list[Any], events: list[Any], cancel: bool, seed: int
) -> None:
    as_generator, as_coroutine = programs(statements, events, cancel)
    (first,), (second,) = World(as_generator, seed).run(), World(as_coroutine, seed).run()
    assert type(first.outcome) is type(second.outcome)
    if "failure" not in type(first.outcome).__dataclass_fields__:  # stack traces differ
        assert first.history == second.history
    else:
        assert first.history[:-1] == second.history[:-1]
