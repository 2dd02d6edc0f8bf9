"""A small shop in a SQLite database: stock, a payment gateway and a carrier.

Each step is done at most once for each order, however often it runs: what it answered is kept in the table
`steps`, in the transaction that did it. Undoing a step marks it, so an attempt that comes late (its worker
was thought dead) does not do it again.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from celeriac.orchestrations.errors import NonRetryableError
from celeriac.orchestrations.retry import RetryContext, RetryPolicy

from ..context import ActivityContext
from ..model import activity

SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (sku TEXT PRIMARY KEY, available INTEGER NOT NULL CHECK (available >= 0));
CREATE TABLE IF NOT EXISTS reservations (order_id TEXT, sku TEXT, quantity INTEGER, PRIMARY KEY (order_id,
sku)); CREATE TABLE IF NOT EXISTS payments (order_id TEXT PRIMARY KEY, cents INTEGER NOT NULL, status TEXT
NOT NULL); CREATE TABLE IF NOT EXISTS shipments (order_id TEXT PRIMARY KEY, tracking TEXT NOT NULL, status
TEXT NOT NULL); CREATE TABLE IF NOT EXISTS gateway (order_id TEXT PRIMARY KEY, calls INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS steps (order_id TEXT, step TEXT, answer TEXT, PRIMARY KEY (order_id, step));
"""
UNDONE = "undone"
Undo = Callable[[sqlite3.Connection], int]


@dataclass(frozen=True)
class Line:
    """One position of an order."""

    sku: str
    quantity: int = 1


@dataclass(frozen=True)
class Reserved:
    """The stock is set aside."""

    order_id: str
    lines: list[Line]


@dataclass(frozen=True)
class OutOfStock:
    """The failure that `reserve_stock` returns rather than raises."""

    sku: str
    wanted: int
    available: int


@dataclass(frozen=True)
class Receipt:
    """The gateway took the money."""

    order_id: str
    cents: int
    transaction: str


@dataclass(frozen=True)
class Parcel:
    """A booked transport."""

    order_id: str
    tracking: str


class GatewayUnavailableError(ConnectionError):
    """Transient: the gateway did not answer."""


class CardDeclinedError(NonRetryableError):
    """Permanent: the bank said no."""


class UndeliverableError(NonRetryableError):
    """Permanent: no carrier goes there."""


def is_transient(context: RetryContext) -> bool | timedelta:
    """The retry handler of payments: a busy database soon again, a silent gateway as the policy says, else
    no.
    """
    if context.failure.is_caused_by(sqlite3.OperationalError):
        return timedelta(milliseconds=200)
    return context.failure.is_caused_by(ConnectionError)


PAYMENT_RETRY = RetryPolicy(
    timedelta(milliseconds=500),
    6,
    backoff_coefficient=2,
    max_retry_interval=timedelta(seconds=10),
    handler=is_transient,
)
STEADY_RETRY = RetryPolicy(
    timedelta(seconds=1), 20, backoff_coefficient=2, max_retry_interval=timedelta(minutes=5), jitter=0.1
)


@activity(retry=STEADY_RETRY)
def reserve_stock(database: str, order_id: str, lines: list[Line]) -> Reserved | OutOfStock:
    """Set the stock of an order aside: all of it, or nothing and an `OutOfStock` that says why."""
    with _step(database, order_id, "reserve") as step:
        if step.answer is None:
            for line in lines:
                if (missing := _take(step.db, order_id, line)) is not None:
                    step.db.execute("ROLLBACK TO work")
                    step.answer = {"out_of_stock": asdict(missing)}
                    break
            else:
                step.answer = {"reserved": True}
        refused = step.answer.get("out_of_stock")
    return OutOfStock(**refused) if refused else Reserved(order_id, lines)


def _take(db: sqlite3.Connection, order_id: str, line: Line) -> OutOfStock | None:
    if line.quantity < 1:
        raise NonRetryableError(
            f"order {order_id} wants {line.quantity} of {line.sku}; a quantity is 1 or more"
        )
    row = db.execute("SELECT available FROM stock WHERE sku = ?", (line.sku,)).fetchone()
    available = row[0] if row else 0
    if available < line.quantity:
        return OutOfStock(line.sku, line.quantity, available)
    db.execute("UPDATE stock SET available = available - ? WHERE sku = ?", (line.quantity, line.sku))
    db.execute(
        "INSERT INTO reservations VALUES (?, ?, ?) "
        "ON CONFLICT (order_id, sku) DO UPDATE SET quantity = quantity + excluded.quantity",
        (order_id, line.sku, line.quantity),
    )
    return None


@activity(retry=STEADY_RETRY)
def release_stock(database: str, order_id: str) -> int:
    """Undo `reserve_stock`: returns how many pieces went back."""

    def undo(db: sqlite3.Connection) -> int:
        rows = db.execute("SELECT sku, quantity FROM reservations WHERE order_id = ?", (order_id,)).fetchall()
        for sku, quantity in rows:
            db.execute("UPDATE stock SET available = available + ? WHERE sku = ?", (quantity, sku))
        db.execute("DELETE FROM reservations WHERE order_id = ?", (order_id,))
        return sum(quantity for _, quantity in rows)

    return _undo(database, order_id, "reserve", "release", undo)


@activity(retry=PAYMENT_RETRY)
def take_payment(database: str, order_id: str, cents: int, card: str) -> Receipt:
    """Charge a card. The gateway is a simulated one: `flaky:2` does not answer twice, `declined` is
    declined.
    """
    _call_gateway(database, order_id, card)
    with _step(database, order_id, "pay") as step:
        if step.answer is None:
            step.db.execute("INSERT INTO payments VALUES (?, ?, 'paid')", (order_id, cents))
            step.answer = {"transaction": f"tx-{order_id}"}
        return Receipt(order_id, cents, step.answer["transaction"])


def _call_gateway(database: str, order_id: str, card: str) -> None:
    """Count the call, in a transaction of its own that lasts when the call fails, and fail as the card
    says.
    """
    with _transaction(database) as db:
        db.execute(
            "INSERT INTO gateway VALUES (?, 1) ON CONFLICT (order_id) DO UPDATE SET calls = calls + 1",
            (order_id,),
        )
        (calls,) = db.execute("SELECT calls FROM gateway WHERE order_id = ?", (order_id,)).fetchone()
    kind, _, times = card.partition(":")
    if kind == "declined":
        raise CardDeclinedError(f"the bank declined the card of order {order_id}")
    if kind == "flaky" and calls <= int(times or 1):
        raise GatewayUnavailableError(f"the gateway did not answer (call {calls} for order {order_id})")


@activity(retry=STEADY_RETRY)
def refund_payment(database: str, order_id: str) -> int:
    """Undo `take_payment`: returns the cents given back."""

    def undo(db: sqlite3.Connection) -> int:
        paid = "order_id = ? AND status = 'paid'"
        row = db.execute(f"SELECT cents FROM payments WHERE {paid}", (order_id,)).fetchone()
        db.execute(f"UPDATE payments SET status = 'refunded' WHERE {paid}", (order_id,))
        return row[0] if row else 0

    return _undo(database, order_id, "pay", "refund", undo)


@activity(retry=STEADY_RETRY)
async def book_carrier(database: str, order_id: str, address: str) -> Parcel:
    """Book the transport of an order; no carrier goes to an address that starts with `nowhere`."""
    if address.strip().lower().startswith("nowhere"):
        raise UndeliverableError(f"no carrier delivers order {order_id} to {address!r}")
    # SQLite blocks, and an async activity shares its loop with others.
    return await asyncio.to_thread(_book, database, order_id)


def _book(database: str, order_id: str) -> Parcel:
    with _step(database, order_id, "book") as step:
        if step.answer is None:
            step.answer = {"tracking": f"parcel-{order_id}"}
            step.db.execute(
                "INSERT INTO shipments VALUES (?, ?, 'booked')", (order_id, step.answer["tracking"])
            )
        return Parcel(order_id, step.answer["tracking"])


@activity(retry=STEADY_RETRY)
def hand_over(database: str, order_id: str) -> None:
    """The parcel leaves the house: its reservation is used up."""
    with _step(database, order_id, "hand over") as step:
        if step.answer is None:
            ActivityContext.current_or_local().logger.info("order %s leaves", order_id)
            step.db.execute("DELETE FROM reservations WHERE order_id = ?", (order_id,))
            step.db.execute("UPDATE shipments SET status = 'shipped' WHERE order_id = ?", (order_id,))
            step.answer = {"done": True}


# --- the database --------------------------------------------------------------------------------


@dataclass
class _Step:
    db: sqlite3.Connection
    answer: dict[str, Any] | None


@contextmanager
def _transaction(database: str) -> Iterator[sqlite3.Connection]:
    """One write transaction; waits for others up to 30 s, then sqlite3.OperationalError."""
    if not Path(database).is_file():
        raise NonRetryableError(f"there is no shop database {database}; make it with open_shop()")
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = NORMAL")  # with WAL enough against every crash of a process
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


@contextmanager
def _step(database: str, order_id: str, name: str) -> Iterator[_Step]:
    """A transaction around one step, with the answer it gave before or None; keeps the answer it is given."""
    find = "SELECT answer FROM steps WHERE order_id = ? AND step = ?"
    with _transaction(database) as db:
        row = db.execute(find, (order_id, name)).fetchone()
        if row and row[0] == UNDONE:
            raise NonRetryableError(f"the step '{name}' of order {order_id} was undone; place a new order")
        step = _Step(db, json.loads(row[0]) if row else None)
        db.execute("SAVEPOINT work")
        yield step
        if row is None:
            db.execute("INSERT INTO steps VALUES (?, ?, ?)", (order_id, name, json.dumps(step.answer)))


def _undo(database: str, order_id: str, done: str, name: str, undo: Undo) -> int:
    """Undo the step `done` once, whether it was done or not, and keep late attempts from doing it."""
    with _step(database, order_id, name) as step:
        if step.answer is None:
            step.answer = {"amount": undo(step.db)}
            step.db.execute("INSERT OR REPLACE INTO steps VALUES (?, ?, ?)", (order_id, done, UNDONE))
        return int(step.answer["amount"])


def open_shop(database: str, stock: Mapping[str, int]) -> None:
    """Make the database if it is not there, and set the stock of these articles."""
    Path(database).parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(SCHEMA)
        db.executemany("INSERT OR REPLACE INTO stock VALUES (?, ?)", sorted(stock.items()))


@dataclass(frozen=True)
class Payment:
    """A row of the payments."""

    cents: int
    status: Literal["paid", "refunded"]


@dataclass(frozen=True)
class Shop:
    """All that the database says, for checks and for people."""

    stock: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, dict[str, int]] = field(default_factory=dict)  # order: article: pieces
    payments: dict[str, Payment] = field(default_factory=dict)
    shipments: dict[str, str] = field(default_factory=dict)  # order: booked or shipped
    gateway_calls: dict[str, int] = field(default_factory=dict)


def inspect_shop(database: str) -> Shop:
    """Read the whole database, in one snapshot."""
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as db:
        db.execute("BEGIN")
        reserved: dict[str, dict[str, int]] = {}
        for order_id, sku, quantity in db.execute("SELECT order_id, sku, quantity FROM reservations"):
            reserved.setdefault(order_id, {})[sku] = quantity
        return Shop(
            stock=dict(db.execute("SELECT sku, available FROM stock")),
            reserved=reserved,
            payments={row[0]: Payment(row[1], row[2]) for row in db.execute("SELECT * FROM payments")},
            shipments=dict(db.execute("SELECT order_id, status FROM shipments")),
            gateway_calls=dict(db.execute("SELECT order_id, calls FROM gateway")),
        )
