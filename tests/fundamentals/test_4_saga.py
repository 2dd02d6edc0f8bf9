"""Compensation: when a step fails, undo the steps before it, with ordinary `try` and `except`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest

from celeriac.activities import activity
from celeriac.orchestrations import (
    OrchestrationCancelledError,
    OrchestrationContext,
    TaskFailedError,
    orchestrator,
    testing,
)

log: list[str] = []


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    log.clear()


@dataclass
class Trip:
    hotel: str
    flight: str


@dataclass
class NoRoom:
    """A failure as a value: nothing is wrong, the answer is no."""

    hotel: str


@activity
def book_hotel(hotel: str) -> str | NoRoom:
    if hotel == "full":
        return NoRoom(hotel)
    log.append(f"hotel {hotel}")
    return f"room in {hotel}"


@activity
def book_flight(flight: str) -> str:
    if flight == "cancelled":
        raise LookupError("there is no such flight")
    log.append(f"flight {flight}")
    return f"seat in {flight}"


@activity
def undo_booking(booking: str) -> None:
    log.append(f"undo {booking}")


@orchestrator
async def book_trip(ctx: OrchestrationContext, trip: Trip) -> str:
    room = await ctx.call_activity(book_hotel, trip.hotel)
    if isinstance(room, NoRoom):  # one way: the activity returns its failure
        return f"no room in {room.hotel}"
    try:
        seat = await ctx.call_activity(book_flight, trip.flight)
        await ctx.wait_for_external_event("Paid")
    except (TaskFailedError, OrchestrationCancelledError) as error:  # the other: it raises
        await ctx.call_activity(undo_booking, room)
        if isinstance(error, TaskFailedError) and error.is_caused_by(LookupError):
            return f"no flight: {error.details.message}"
        raise
    return f"{room}, {seat}"


PAID = testing.event("Paid")


def test_all_goes_well() -> None:
    assert testing.run(book_trip, Trip("Ritz", "X1"), events=[PAID]).output == "room in Ritz, seat in X1"
    assert log == ["hotel Ritz", "flight X1"]


def test_a_failure_that_is_returned() -> None:
    assert testing.run(book_trip, Trip("full", "X1")).output == "no room in full"
    assert log == []


def test_a_failure_that_is_raised() -> None:
    result = testing.run(book_trip, Trip("Ritz", "cancelled"))
    assert result.output == "no flight: there is no such flight"
    assert log == ["hotel Ritz", "undo room in Ritz"]


def test_a_client_cancels() -> None:
    an_hour_later = testing.cancel("changed my mind", after=timedelta(hours=1))
    result = testing.run(book_trip, Trip("Ritz", "X1"), events=[an_hour_later])
    assert result.status == "Cancelled"
    assert log[-1] == "undo room in Ritz"
