"""Chaining with compensation: reserve, charge, ship; what fails is undone in the reverse order.

`reserve_stock` *returns* its failure, an `OutOfStock`; `take_payment` *raises*, transiently (its retry
policy tries again, counting down in the broker) or permanently (`CardDeclinedError`, not tried again).
Shipping is an orchestration of its own.

    celeriac start fulfil_order --wait -i \
        '{"database": "shop.db", "order_id": "1", "lines": [{"sku": "tea"}], "cents": 950, "card": "flaky:2"}'
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from celeriac.activities.shipped.orders import (
    CardDeclinedError,
    Line,
    OutOfStock,
    UndeliverableError,
    book_carrier,
    hand_over,
    refund_payment,
    release_stock,
    reserve_stock,
    take_payment,
)
from celeriac.activities.shipped.orders import (
    open_shop as open_shop,  # exported: whoever starts orders needs a shop
)
from celeriac.orchestrations import (
    OrchestrationCancelledError,
    OrchestrationContext,
    TaskFailedError,
    orchestrator,
)


@dataclass(frozen=True)
class Order:
    """An order; `database` is made by `open_shop`."""

    database: str
    order_id: str
    lines: list[Line] = field(default_factory=list)
    cents: int = 0
    card: str = "good"  # "flaky:2": no answer twice; "declined"
    address: str = "1 High Street"  # "nowhere ...": no carrier goes there


@dataclass(frozen=True)
class Shipment:
    """What `ship_order` is given."""

    database: str
    order_id: str
    address: str


@dataclass(frozen=True)
class OrderResult:
    """How an order ended; everything but `shipped` left no trace in stock and payments."""

    order_id: str
    outcome: Literal["shipped", "out_of_stock", "declined", "undeliverable"]
    transaction: str = ""
    tracking: str = ""
    reason: str = ""


@orchestrator
async def fulfil_order(ctx: OrchestrationContext, order: Order) -> OrderResult:
    """Reserve the stock, take the payment and ship; or undo what was done and say why."""
    database, order_id = order.database, order.order_id
    try:
        reserved = await ctx.call_activity(reserve_stock, database, order_id, order.lines)
        if isinstance(reserved, OutOfStock):
            reason = f"{reserved.wanted} of {reserved.sku} wanted, {reserved.available} there"
            return OrderResult(order_id, "out_of_stock", reason=reason)
        receipt = await ctx.call_activity(take_payment, database, order_id, order.cents, order.card)
        ctx.set_custom_status("paid")
        tracking = await _ship(ctx, order)
    except (TaskFailedError, OrchestrationCancelledError) as error:
        ctx.set_custom_status("undoing")
        # An undo does nothing where nothing was done, so it is safe whichever step failed.
        await ctx.call_activity(refund_payment, database, order_id)
        await ctx.call_activity(release_stock, database, order_id)
        ctx.set_custom_status("undone")
        outcome = _outcome(error)
        if outcome is None:
            raise
        return OrderResult(order_id, outcome, reason=_reason(error))
    ctx.set_custom_status("shipped")
    return OrderResult(order_id, "shipped", receipt.transaction, tracking)


async def _ship(ctx: OrchestrationContext, order: Order) -> str:
    shipping = ctx.call_sub_orchestrator(ship_order, Shipment(order.database, order.order_id, order.address))
    try:
        return await shipping
    except OrchestrationCancelledError:
        # Too late to cancel: the parcel may be on its way, so how the shipment ends decides.
        return await shipping


def _outcome(error: Exception) -> Literal["declined", "undeliverable"] | None:
    """The business outcome that a failure stands for; None for one that nobody expected."""
    if isinstance(error, TaskFailedError) and error.is_caused_by(CardDeclinedError):
        return "declined"
    if isinstance(error, TaskFailedError) and error.is_caused_by(UndeliverableError):
        return "undeliverable"
    return None


def _reason(error: Exception) -> str:
    """What the activity that failed said, without the names of those it passed through."""
    details = error.details if isinstance(error, TaskFailedError) else None
    while details is not None and details.inner is not None:
        details = details.inner
    return details.message if details is not None else str(error)


@orchestrator
async def ship_order(ctx: OrchestrationContext, shipment: Shipment) -> str:
    """Book a carrier and hand the parcel over; returns the tracking number."""
    parcel = await ctx.call_activity(book_carrier, shipment.database, shipment.order_id, shipment.address)
    await ctx.call_activity(hand_over, shipment.database, shipment.order_id)
    return parcel.tracking
