"""The laws of the replay core, over every shape of the corpus and many orders of events."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import pytest
from corpus_ends import PROGRAMS
from world import Program, Recording, World, failure_of

from celeriac.orchestrations.history import (
    AnyEvent,
    GroupCompleted,
    SubOrchestrationInstanceFailed,
    TaskCompleted,
    TimerFired,
    decode_event,
    encode_event,
)
from celeriac.orchestrations.replay import Execution

SEEDS = range(12)


@pytest.fixture(params=PROGRAMS, ids=lambda program: program.name)
def recordings(request: pytest.FixtureRequest) -> list[Recording]:
    """Every run of this shape, in several orders of events."""
    program: Program = request.param
    return [recording for seed in SEEDS for recording in World(program, seed).run()]


def splits(count: int, seed: int) -> Iterator[list[int]]:
    """Ways to cut `count` items into turns, as the places of the cuts: all of them, or many."""
    places = range(1, count)
    if count <= 7:
        for size in range(count):
            yield from (list(cuts) for cuts in itertools.combinations(places, size))
        return
    chance = random.Random(seed)
    yield []
    yield list(places)
    for _ in range(24):
        yield [place for place in places if chance.random() < chance.choice((0.1, 0.5, 0.9))]


def pieces(items: Sequence[AnyEvent], cuts: list[int]) -> Iterator[Sequence[AnyEvent]]:
    for start, stop in itertools.pairwise([0, *cuts, len(items)]):
        yield items[start:stop]


def test_every_order_gives_what_the_shape_promises(recordings: list[Recording]) -> None:
    program = recordings[0].program
    ends = [r for r in recordings if r.outcome.__class__.__name__ != "ContinuedAsNewOutcome"]
    assert program.expect is not None
    assert [r.outcome for r in ends if not program.expect(r.outcome)] == []
    assert len(recordings) == program.runs * len(SEEDS)


def test_replay_gives_the_same_turn_every_time(recordings: list[Recording]) -> None:
    for recording in recordings:
        outside = recording.outside
        for done, upto in enumerate(recording.boundaries):
            once, twice = (recording.replay(upto, outside[done:]) for _ in range(2))
            assert once == twice
            assert recording.history[:upto] + once.events == recording.history
            assert once.outcome == recording.outcome


def test_going_on_live_is_replaying_and_splits_do_not_matter(recordings: list[Recording]) -> None:
    for seed, recording in enumerate(recordings):
        outside = recording.outside
        for cuts in splits(len(outside), seed):
            live = Execution(recording.program.definition, recording.payloads)
            history: list[AnyEvent] = []
            for number, inbox in enumerate(pieces(outside, cuts)):
                before = len(history)
                history += live.advance(inbox).events
                if (seed + number) % 2:  # lost from the cache: another process goes on
                    live.close()
                    live = Execution(recording.program.definition, recording.payloads)
                    live.replay(history)
                assert live.history_length == len(history) >= before
            assert history == recording.history
            assert live.outcome == recording.outcome
            live.close()


def test_events_for_closed_steps_leave_no_trace(recordings: list[Recording]) -> None:
    for seed, recording in enumerate(recordings[:6]):
        chance = random.Random(seed)
        noisy: list[AnyEvent] = []
        for event in recording.outside:
            noisy.append(event)
            seq = getattr(event, "seq", None)
            for stale in (seq, 99_999) if seq is not None else (99_999,):
                noisy += (
                    chance.sample(
                        [
                            TaskCompleted(seq=stale, result='"stale"'),
                            TimerFired(seq=stale),
                            GroupCompleted(seq=stale),
                            SubOrchestrationInstanceFailed(
                                seq=stale, failure=failure_of(ValueError("stale"))
                            ),
                        ],
                        k=2,
                    )
                    if stale == 99_999
                    else [event]
                )
        turn = recording.replay(0, noisy)
        assert turn.events == recording.history


def test_histories_survive_their_written_form(recordings: list[Recording]) -> None:
    for recording in recordings[:3]:
        recording.history = [decode_event(encode_event(event)) for event in recording.history]
        for upto in recording.boundaries:
            assert recording.replay(upto, []).events == []


def test_times_never_go_back(recordings: list[Recording]) -> None:
    for recording in recordings:
        times = [event.at for event in recording.history]
        assert times == sorted(times)
