"""One scene for each script: a state in which it has something to do, and the call that does it.

Laws that hold for every script are tested over these; a new script needs a scene (`test_every_script.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import audit_desk

from celeriac.celery_app.store import (
    Call,
    Store,
    audit,
    flights,
    instances,
    payloads,
    queues,
    steps,
    turns,
    views,
)
from celeriac.celery_app.store.records import OpenedStep, Query, open_text
from celeriac.celery_app.store.server import note_schema
from celeriac.orchestrations.history import EventRaised, TaskCompleted, TaskScheduled, TimerCreated

Scene = Callable[[Any], Call[Any]]

EVENT = open_text(EventRaised(name="go"))
FAILED = b'{"number":1,"at":1,"error_type":"E","message":"no"}'
ORDERS = "orders"


def running(desk: Any) -> Any:
    """An instance with one activity in its queue."""
    reply = desk.start("a")
    message = OpenedStep(1, desk.queue, b'{"celeriac-step": "%b:1:1"}' % reply.execution.encode())
    return desk.step(events=[TaskScheduled(seq=1, name="act")], messages=[message])


def taken(desk: Any) -> Any:
    """The same, in the hands of worker w1 as its message 1."""
    claimed = running(desk)
    desk.beat("w1")
    desk.store.run(take(desk))
    return claimed


def take(desk: Any) -> Call[Any]:
    return flights.take(desk.keys, "w1", 0, 10, [(desk.queue, 10)], now=desk.now)


def orders(desk: Any) -> str:
    """A trigger queue with two messages, and a listener t1 that beats."""
    queue = f"{desk.keys.hub}-{ORDERS}"
    desk.beat("t1")
    desk.store.run(queues.push(queue, b"1", b"2"))
    return queue


def held(desk: Any) -> str:
    """The listener t1 holds message 1."""
    queue = orders(desk)
    (message,) = desk.store.run(queues.take(desk.keys, "t1", queue, 1, 1, desk.now))
    return message.number


def ended(desk: Any) -> None:
    desk.start("a")
    desk.end()


def _claim(desk: Any) -> Call[Any]:
    desk.start("a")
    return turns.claim(desk.keys, desk.incarnation, 1, 10, desk.now)


def _commit(desk: Any) -> Call[Any]:
    desk.start("a")
    return turns.commit(desk.keys, desk.turn(desk.claim_one(), **desk.activity(1)), desk.now)


def _release(desk: Any) -> Call[Any]:
    desk.start("a")
    return turns.release(desk.keys, "a", desk.claim_one().claim, 1000, "later", now=desk.now)


def _hand_back(desk: Any) -> Call[Any]:
    desk.start("a")
    desk.claim_one()
    return turns.hand_back(desk.keys, desk.incarnation, now=desk.now)


def _fire_timers(desk: Any) -> Call[Any]:
    desk.start("a", start_at=desk.now + 10)
    return turns.fire_timers(desk.keys, now=desk.now + 20)


def _sweep(desk: Any) -> Call[Any]:
    desk.start("a")
    desk.claim(incarnation="o2")
    desk.store.client.zadd(desk.keys.beats, {"o2": desk.now - 1})
    return turns.sweep(desk.keys, now=desk.now)


def _rouse(desk: Any) -> Call[Any]:
    """An instance that was handed back to wait is tried now."""
    desk.store.run(_release(desk))
    return turns.rouse(desk.keys, now=desk.now)


def _audit(desk: Any) -> Call[Any]:
    """An instance that the list of the ready ones lost."""
    desk.start("a")
    desk.store.client.delete(desk.keys.ready)
    return audit.audit(desk.keys, now=desk.now)


def _resend(desk: Any) -> Call[Any]:
    """A step whose queue was emptied."""
    claimed = audit_desk.running(desk, 1)
    desk.store.client.delete(desk.queue)
    (suspect,) = audit_desk.look(desk).suspects
    return audit.resend(desk.keys, suspect, desk.queue, audit_desk.message(claimed, 1), desk.now)


def _retime(desk: Any) -> Call[Any]:
    """A timer that the list of timers lost."""
    desk.start("a")
    desk.step(events=[TimerCreated(seq=1, due=desk.now + 500)], timers=[(1, desk.now + 500)])
    desk.store.client.delete(desk.keys.timers)
    (suspect,) = audit_desk.look(desk).suspects
    return audit.retime(desk.keys, suspect, desk.now + 500)


def _begin(desk: Any) -> Call[Any]:
    execution = running(desk).execution
    return flights.begin(desk.keys, execution, 1, 1, "token", again=False, now=desk.now)


def _complete(desk: Any) -> Call[Any]:
    claimed = taken(desk)
    text = open_text(TaskCompleted(seq=1, result="7"))
    return steps.complete(desk.keys, "a", claimed.execution, 1, 1, success=True, text=text, now=desk.now)


def _retry(desk: Any) -> Call[Any]:
    claimed = taken(desk)
    return steps.retry(
        desk.keys, "a", claimed.execution, 1, 1, due=desk.now + 10, queue_key=desk.queue, message=b"m",
        failed=FAILED, start_by=desk.now + 99, now=desk.now,
    )  # fmt: skip


def _arm(desk: Any) -> Call[Any]:
    return steps.arm(desk.keys, "a", taken(desk).execution, 1, 1, close_in=10, beat_in=5, now=desk.now)


def _stage(desk: Any) -> Call[Any]:
    desk.start("a")
    claimed = desk.claim_one()
    return payloads.stage(desk.keys, "a", claimed.execution, claimed.claim, [("p1", b"text")])


def _take(desk: Any) -> Call[Any]:
    running(desk)
    desk.beat("w1")
    return take(desk)


def _adopt(desk: Any) -> Call[Any]:
    taken(desk)
    return flights.adopt(desk.keys, "w1", "w2", keep=[1], lease=10_000, now=desk.now)


def _promote(desk: Any) -> Call[Any]:
    desk.store.run(flights.park(desk.keys, "~1", desk.queue, b"m", desk.now - 1))
    return flights.promote(desk.keys, now=desk.now)


def _sweep_flights(desk: Any) -> Call[Any]:
    taken(desk)
    desk.store.client.zadd(desk.keys.beats, {"w1": desk.now - 1})
    return flights.sweep_flights(desk.keys, now=desk.now)


def _raise_event(desk: Any) -> Call[Any]:
    running(desk)
    return instances.raise_event(desk.keys, "a", EVENT, "key", [("p", b"v")], now=desk.now)


def _trigger_event(desk: Any) -> Call[Any]:
    running(desk)
    return queues.raise_from(desk.keys, "t1", held(desk), "a", EVENT, now=desk.now)


def _trigger_back(desk: Any) -> Call[Any]:
    return queues.back(desk.keys, "t1", held(desk), 3, {"reason": "no"})


def _redrive(desk: Any) -> Call[Any]:
    queue = orders(desk)
    desk.store.client.lpush(f"{queue}-poison", b"{}\n3")
    return queues.redrive(desk.keys, queue)


def _after(arrange: Callable[[Any], Any], make: Scene) -> Scene:
    def scene(desk: Any) -> Call[Any]:
        arrange(desk)
        return make(desk)

    return scene


SCENES: dict[str, Scene] = {
    "start": lambda d: instances.start(d.keys, d.request("a"), d.now),
    "restart": _after(ended, lambda d: instances.restart(d.keys, "a", now=d.now)),
    "raise_event": _raise_event,
    "control": _after(running, lambda d: instances.suspend(d.keys, "a", "why", d.now)),
    "terminate": _after(running, lambda d: instances.terminate(d.keys, "a", "why", d.now)),
    "purge": _after(ended, lambda d: instances.purge(d.keys, "a", d.now)),
    "claim": _claim,
    "commit": _commit,
    "release": _release,
    "hand_back": _hand_back,
    "fire_timers": _fire_timers,
    "sweep": _sweep,
    "rouse": _rouse,
    "accuse": lambda d: turns.accuse(d.keys, "a", d.start("a").execution),
    "audit": _audit,
    "resend": _resend,
    "retime": _retime,
    "complete": _complete,
    "retry": _retry,
    "begin": _begin,
    "arm": _arm,
    "stage": _stage,
    "take": _take,
    "ack": _after(taken, lambda d: flights.ack(d.keys, "w1", [1])),
    "give_back": _after(taken, lambda d: flights.give_back(d.keys, "w1", [1], head=True)),
    "adopt": _adopt,
    "publish": lambda d: flights.publish(d.keys, d.queue, b"m"),
    "park": lambda d: flights.park(d.keys, "~1", d.queue, b"m", d.now + 10),
    "promote": _promote,
    "beat": lambda d: flights.beat(d.keys, "w9", 10_000, info="{}", join=True, now=d.now),
    "sweep_flights": _sweep_flights,
    "set_aside": _after(taken, lambda d: flights.set_aside(d.keys, "w1", 1, "why")),
    "trigger_take": lambda d: queues.take(d.keys, "t1", orders(d), 1, 1, d.now),
    "trigger_start": lambda d: queues.start_from(d.keys, "t1", held(d), d.request("b"), d.now),
    "trigger_event": _trigger_event,
    "trigger_back": _trigger_back,
    "trigger_strike": lambda d: queues.strike(d.keys, "t1", held(d)),
    "redrive": _redrive,
    "note_schema": lambda d: note_schema(d.keys),
    "note_served": lambda d: views.note_served(d.keys, {"o flow": ["1"]}),
    "get": _after(running, lambda d: views.get(d.keys, "a")),
    "list": _after(running, lambda d: views.list_instances(d.keys, Query())),
    "progress": _after(running, lambda d: views.progress(d.keys, "a")),
    "processes": _after(running, lambda d: views.processes(d.keys)),
}


def contents(store: Store) -> dict[bytes, Any]:
    """Everything of the hub and its queues, by what it means (not how Redis keeps it)."""
    client = store.client
    read: dict[bytes, Callable[[bytes], Any]] = {
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"string": client.get,
        b"zset": lambda key: dict(client.zrange(key, 0, -1, withscores=True)),
    }
    return {key: read[client.type(key)](key) for key in client.scan_iter(match=f"{store.keys.hub}*")}
