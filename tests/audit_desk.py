"""What the tests of the audit share: its rounds at a desk, steps with messages that `take` can read."""

from __future__ import annotations

from typing import Any

from celeriac.celery_app.store import audit, flights
from celeriac.celery_app.store.audit import AuditReport, Suspect
from celeriac.celery_app.store.records import Claimed, OpenedStep

WORKER = "w00000000000000a1"


def message(claimed: Claimed, seq: int, attempt: int = 1) -> bytes:
    """A message with the header that take reads."""
    return b'{"headers": {"celeriac-step": "%s:%d:%d"}}' % (claimed.execution.encode(), seq, attempt)


def round_of(desk: Any) -> Any:
    """When the round of the walk began."""
    return desk.store.client.hget(desk.keys.path("audit"), "began")


def look(desk: Any, *, stock: bool = False, most: int = 50) -> AuditReport:
    """Rounds of the audit; the desk's time goes on by what it asks for.

    Wherever the walk stood, at the end of the second round it has seen everything.
    """
    mended, suspects = [], []
    for _ in range(2):
        began = round_of(desk)
        while round_of(desk) == began:
            report = desk.store.run(audit.audit(desk.keys, stock=stock, most=most, now=desk.now))
            mended += report.mended
            suspects += report.suspects
            desk.now += report.wait
    once = {(one.execution, one.seq): one for one in suspects}
    return AuditReport(0, mended, list(once.values()))


def resend(desk: Any, suspect: Suspect, claimed: Claimed, queue: str = "") -> str:
    again = message(claimed, suspect.seq, suspect.attempt)
    return desk.store.run(audit.resend(desk.keys, suspect, queue or desk.queue, again, desk.now))


def running(desk: Any, *seqs: int, **more: Any) -> Claimed:
    """An instance with these activities queued, with messages that take can read."""
    desk.start()
    claimed = desk.claim_one()
    opened = [OpenedStep(seq, desk.queue, message(claimed, seq), **more) for seq in seqs]
    desk.commit(desk.turn(claimed, messages=opened))
    return claimed


def join(desk: Any, incarnation: str = WORKER) -> None:
    desk.store.run(flights.beat(desk.keys, incarnation, 10**9, join=True, now=desk.now))


def take(desk: Any, limit: int, base: int = 0, incarnation: str = WORKER) -> flights.Taken:
    return desk.store.run(
        flights.take(desk.keys, incarnation, base, limit, [(desk.queue, limit)], now=desk.now)
    )


def close(desk: Any, claimed: Claimed, *seqs: int) -> None:
    """End the steps and the instance, so that the residue checker has something to check."""
    for seq in seqs:
        desk.complete(claimed, seq)
    desk.end()
    desk.store.client.delete(desk.keys.flight(WORKER), desk.queue)
    assert desk.open(claimed.execution) == {}
