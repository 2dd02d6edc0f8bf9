"""The three parts of the demo: what each starts, what it does meanwhile, and how its result is checked.

The checks do not trust the workflow: they read the folder, the backup and the database themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from celeriac.celery_app.client.sync import Client, OrchestrationState
from celeriac.orchestrations.examples.fulfil_order import open_shop

States = Mapping[str, OrchestrationState]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked fact."""

    ok: bool
    text: str


class Part(Protocol):
    """One of the three."""

    title: str

    def start(self, client: Client) -> list[str]:
        """Start the instances; returns their ids."""
        ...

    def meanwhile(self, client: Client, states: States, tell: Tell) -> None:
        """Called again and again until everything has ended."""
        ...

    def check(self, states: States) -> Iterator[Finding]:
        """The results against the world outside; called once, when everything has ended."""
        ...


def _completed(states: States, instance_id: str) -> Any:
    """The output of an instance that completed, else None."""
    state = states[instance_id]
    return state.output if state.status == "Completed" else None


# --- 1. fan-out and fan-in ------------------------------------------------------------------------


@dataclass(slots=True)
class Backup:
    """Backs up a real folder, then compares the two byte by byte."""

    root: Path
    target: Path
    tracked_only: bool
    title: str = "backup_site: one activity a file, all at once"
    _before: dict[str, str] = field(default_factory=dict)

    def start(self, client: Client) -> list[str]:
        self._before = self._hashes()
        request = {"root": str(self.root), "backup_dir": str(self.target), "tracked_only": self.tracked_only}
        return [client.start("backup_site", request, instance_id="backup")]

    def meanwhile(self, client: Client, states: States, tell: Tell) -> None:
        """Nothing to do: it needs nobody."""

    def check(self, states: States) -> Iterator[Finding]:
        output = _completed(states, "backup")
        if output is None:
            yield Finding(False, "the backup did not complete")
            return
        manifest = json.loads(Path(output["manifest"]).read_text(encoding="utf-8"))
        listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
        # A file that changed while the demo ran is nobody's fault; the backup has one of its two contents.
        after = self._hashes()
        steady = {path: digest for path, digest in self._before.items() if after.get(path) == digest}
        moved = (self._before.keys() | after.keys()) - steady.keys()
        wrong = sorted(path for path, digest in steady.items() if listed.get(path) != digest)
        extra = sorted(listed.keys() - self._before.keys() - after.keys())
        note = f" ({len(moved)} changed meanwhile)" if moved else ""
        yield Finding(
            not wrong and not extra and output["files"] == len(listed),
            _sentence(f"{len(steady):,} files of {self.root} are in the manifest{note}", [*wrong, *extra]),
        )
        damaged = sorted(path for path, digest in listed.items() if _hash(self._object(digest)) != digest)
        size = sum(self._object(digest).stat().st_size for digest in listed.values()) if not damaged else 0
        yield Finding(
            not damaged and output["bytes"] == size,
            _sentence(f"{size:,} bytes in the backup have the SHA-256 they are named by", damaged),
        )

    def _object(self, digest: str) -> Path:
        return self.target / "objects" / digest[:2] / digest[2:]

    def _hashes(self) -> dict[str, str]:
        """The folder as it is, listed and read by this process."""
        if self.tracked_only:
            names = subprocess.run(
                ["git", "-C", str(self.root), "ls-files", "-z"], capture_output=True, check=True
            ).stdout.split(b"\0")
            paths = [self.root / os.fsdecode(name) for name in names if name]
        else:
            paths = [path for path in self.root.rglob("*") if not path.is_relative_to(self.target)]
        files = [path for path in paths if path.is_file() and not path.is_symlink()]
        return {path.relative_to(self.root).as_posix(): _hash(path) for path in files}


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _sentence(text: str, wrong: list[str]) -> str:
    return f"{text}; but not {', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}" if wrong else text


# --- 2. chaining, retries, compensation -----------------------------------------------------------

STOCK: Final = {"tea": 10, "cake": 5}
ORDERS: Final[dict[str, dict[str, Any]]] = {
    "order-plain": {"lines": [{"sku": "tea", "quantity": 2}, {"sku": "cake"}], "cents": 1450},
    "order-flaky": {"lines": [{"sku": "tea"}], "cents": 500, "card": "flaky:2"},
    "order-declined": {"lines": [{"sku": "cake", "quantity": 2}], "cents": 900, "card": "declined"},
    "order-sold-out": {"lines": [{"sku": "tea"}, {"sku": "cake", "quantity": 50}], "cents": 9000},
    "order-nowhere": {"lines": [{"sku": "tea", "quantity": 3}], "cents": 1500, "address": "nowhere 7"},
}
OUTCOMES: Final = {
    "order-plain": "shipped",
    "order-flaky": "shipped",
    "order-declined": "declined",
    "order-sold-out": "out_of_stock",
    "order-nowhere": "undeliverable",
}


@dataclass(slots=True)
class Orders:
    """Five orders with five fates, in a real SQLite database."""

    database: Path
    title: str = "fulfil_order: a chain of steps, undone when one fails for good"

    def start(self, client: Client) -> list[str]:
        open_shop(str(self.database), STOCK)
        return [
            client.start(
                "fulfil_order",
                {**order, "database": str(self.database), "order_id": name},
                instance_id=name,
            )
            for name, order in ORDERS.items()
        ]

    def meanwhile(self, client: Client, states: States, tell: Tell) -> None:
        """Nothing to do: it needs nobody."""

    def check(self, states: States) -> Iterator[Finding]:
        got = {name: (_completed(states, name) or {}).get("outcome") for name in ORDERS}
        wrong = [f"{name}: {outcome}" for name, outcome in got.items() if outcome != OUTCOMES[name]]
        yield Finding(
            not wrong, _sentence("2 orders shipped, 1 declined, 1 out of stock, 1 undeliverable", wrong)
        )
        with contextlib.closing(sqlite3.connect(self.database)) as db:
            yield from self._check_database(lambda query: db.execute(query).fetchall())

    def _check_database(self, read: Callable[[str], list[tuple[Any, ...]]]) -> Iterator[Finding]:
        calls = dict(read("SELECT order_id, calls FROM gateway")).get("order-flaky", 0)
        text = f"the gateway was asked {calls} times for order-flaky, at first without an answer"
        yield Finding(calls >= 3, text)
        shipped = [name for name, outcome in OUTCOMES.items() if outcome == "shipped"]
        payments = {name: (ORDERS[name]["cents"], "paid") for name in shipped}
        payments["order-nowhere"] = (ORDERS["order-nowhere"]["cents"], "refunded")
        found = {name: (cents, status) for name, cents, status in read("SELECT * FROM payments")}
        yield Finding(found == payments, "the database has 2 payments and 1 refund, right to the cent")
        left = dict(STOCK)
        for line in (line for name in shipped for line in ORDERS[name]["lines"]):
            left[line["sku"]] -= line.get("quantity", 1)
        stock = dict(read("SELECT sku, available FROM stock"))
        yield Finding(stock == left, f"the stock is less by what was shipped, and no more ({_stock(stock)})")
        yield Finding(not read("SELECT * FROM reservations"), "nothing stays reserved")
        parcels = dict(read("SELECT order_id, status FROM shipments"))
        yield Finding(parcels == dict.fromkeys(shipped, "shipped"), "2 parcels left the house")


def _stock(stock: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {STOCK.get(name)} → {count}" for name, count in sorted(stock.items()))


# --- 3. a person in the loop ----------------------------------------------------------------------


@dataclass(slots=True)
class Expenses:
    """One expense is approved from the command line; the other one's approver sleeps."""

    folder: Path
    environment: Mapping[str, str]
    title: str = "approve_expense: waits for a person, or for the clock"
    _raised: subprocess.Popen[str] | None = None
    _answered: bool = False

    def start(self, client: Client) -> list[str]:
        common = {"folder": str(self.folder), "employee": "Kim"}
        approved = {**common, "expense_id": "train", "amount": "84.50", "answer_within": "PT10M"}
        escalated = {**common, "expense_id": "hotel", "amount": "412.00", "answer_within": "PT5S"}
        return [
            client.start("approve_expense", approved, instance_id="expense-train"),
            client.start("approve_expense", escalated, instance_id="expense-hotel"),
        ]

    def meanwhile(self, client: Client, states: States, tell: Tell) -> None:
        if self._raised is None and states["expense-train"].custom_status == "waiting for the team lead":
            arguments = ["raise-event", "expense-train", "Approval", "-i", '{"approved": true, "by": "Ada"}']
            tell(f"$ celeriac {' '.join(arguments[:-1])} '{arguments[-1]}'")
            self._raised = subprocess.Popen(
                [sys.executable, "-m", "celeriac.cli.main", *arguments],
                env=dict(self.environment), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        hotel = states["expense-hotel"].custom_status
        if not self._answered and hotel == "waiting for the head of department":
            self._answered = True
            tell("expense-hotel: nobody answered in time, so it went to the head of department, who says no")
            client.raise_event("expense-hotel", "Approval", {"approved": False, "by": "Grace"})

    def check(self, states: States) -> Iterator[Finding]:
        said, code = ("", None)
        if self._raised is not None:
            said, _ = self._raised.communicate(timeout=30)
            code = self._raised.returncode
        yield Finding(
            code == 0, f"celeriac raise-event exited {code}" + (f": {said.strip()}" if code else "")
        )
        train, hotel = _completed(states, "expense-train"), _completed(states, "expense-hotel")
        wanted = {"outcome": "approved", "decided_by": "Ada", "escalated": False, "expense_id": "train"}
        yield Finding(train == wanted, "expense-train was approved by Ada's event")
        wanted = {"outcome": "rejected", "decided_by": "Grace", "escalated": True, "expense_id": "hotel"}
        yield Finding(hotel == wanted, "expense-hotel timed out, was escalated, and rejected by Grace")
        verdicts = [json.loads(path.read_text()) for path in (self.folder / "verdicts").glob("*.json")]
        outcomes = {verdict["expense_id"]: verdict["outcome"] for verdict in verdicts}
        notices = len(list((self.folder / "outbox").glob("*.json")))
        yield Finding(
            outcomes == {"train": "approved", "hotel": "rejected"} and notices == 3,
            f"{len(verdicts)} verdicts and {notices} notices are on file",
        )

    def close(self) -> None:
        """Leave no process behind."""
        if self._raised is not None:
            if self._raised.poll() is None:
                self._raised.kill()
            self._raised.communicate()
