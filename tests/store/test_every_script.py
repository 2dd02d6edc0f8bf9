"""Laws of every script: sent twice it changes nothing more, and without memory it does all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from every_script import EVENT, SCENES, contents

from celeriac.celery_app.store import StoreFullError, instances, scripts
from celeriac.orchestrations.errors import CeleriacError

LUA = Path(scripts.__file__).parent / "lua"

# These read only.
READS = {"get", "list", "progress", "processes"}
# These may be sent again only by somebody who knows that they were not applied: what becomes of a lost reply.
NOT_REPEATED = {
    "claim": "the orchestrator hands back whatever is in its name and goes on under another",
    "take": "the worker gives its incarnation up, and what it took returns",
    "release": "refused the second time; what was not handed back is handed back by the audit",
    "publish": "at least once, as Celery's own: the publisher is told",
    "park": "the same member again, so there is one; but the publisher is told",
    "sweep_flights": "the next sweep goes on",
    "promote": "the next call finds what is still due",
    "set_aside": "nothing is left to be set aside",
    "adopt": "whoever gives an incarnation up repeats it, with the same heir, until it is answered",
    "terminate": "refused the second time, because it has ended",
    "purge": "refused the second time, because it is gone",
    "redrive": "the next call moves what is left",
    "trigger_take": "the listener looks up what it holds",
    "trigger_start": "the listener looks up what it holds: the message is gone with the start",
    "trigger_event": "the same",
    "trigger_strike": "a try counted once too often",
}
# The second call is the next step of the same work: one sweep condemns the dead, the next forgets them.
GO_ON = {"sweep"}
# With no memory left these go on: they free some, or move as much as they free.
WORK_WITHOUT_MEMORY = {"ack", "purge", "take"}


def test_every_script_has_a_scene() -> None:
    texts = {path.stem: path.read_text() for path in LUA.glob("*.lua")}
    included = {
        word
        for text in texts.values()
        for line in text.splitlines()
        if line.startswith("-- include:")
        for word in line.split()[2:]
    }
    assert set(texts) - included == set(SCENES)


def outcome(desk: Any, call: Any) -> Any:
    try:
        return desk.store.run(call)
    except CeleriacError as error:
        return type(error)


@pytest.fixture
def lone(desk: Any) -> Iterator[Any]:
    """A desk whose scene is cleared away, for what it leaves is no whole story."""
    yield desk
    for key in contents(desk.store):
        desk.store.client.delete(key)


@pytest.mark.parametrize("name", sorted(SCENES))
def test_a_call_whose_reply_was_lost_is_applied_once(lone: Any, name: str) -> None:
    call = SCENES[name](lone)
    before = contents(lone.store)
    first = outcome(lone, call)
    assert not isinstance(first, type), first
    once = contents(lone.store)
    assert (once == before) == (name in READS)
    if name not in NOT_REPEATED:
        assert call.idempotent or name in READS
        assert not isinstance(outcome(lone, call), type)
        assert contents(lone.store) == once or name in GO_ON
    else:
        assert not call.idempotent


def test_an_event_without_a_dedup_key_is_never_sent_twice(desk: Any) -> None:
    assert not instances.raise_event(desk.keys, "a", EVENT).idempotent
    assert instances.raise_event(desk.keys, "a", EVENT, "key").idempotent


@pytest.mark.parametrize("name", sorted(set(SCENES) - READS))
def test_without_memory_a_script_does_all_or_nothing(lone: Any, name: str) -> None:
    call = SCENES[name](lone)
    before = contents(lone.store)
    lone.store.client.config_set("maxmemory", "1")
    try:
        refused = outcome(lone, call)
    finally:
        lone.store.client.config_set("maxmemory", "0")
    if name in WORK_WITHOUT_MEMORY:
        assert not isinstance(refused, type), refused
        assert contents(lone.store) != before
        return
    assert refused is StoreFullError
    assert contents(lone.store) == before
    assert not isinstance(outcome(lone, call), type)  # and it can be done when there is memory again
