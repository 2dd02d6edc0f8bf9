"""The shipped orchestrations, on real files and a real database, and their activities run twice."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from celeriac.activities.shipped import backup, expenses, orders
from celeriac.activities.shipped.orders import Line, Payment, inspect_shop, open_shop
from celeriac.orchestrations import NonRetryableError, testing
from celeriac.orchestrations.examples.approve_expense import Expense, approve_expense
from celeriac.orchestrations.examples.backup_site import BackupRequest, backup_site
from celeriac.orchestrations.examples.fulfil_order import Order, fulfil_order
from celeriac.orchestrations.registry import REGISTRY

DAY = timedelta(days=1)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def test_importing_the_package_registers_all_of_them() -> None:
    assert {"approve_expense", "backup_site", "fulfil_order", "ship_order"} <= REGISTRY.names().keys()


# --- backup_site -------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "a.txt").write_text("alpha")
    (folder / "copy of a.txt").write_text("alpha")
    (folder / "sub" / "ünï\ncode.bin").write_bytes(bytes(range(256)) * 5000)
    (folder / "nothing").touch()
    (folder / "link").symlink_to(folder / "a.txt")
    return folder


@pytest.mark.parametrize("max_parallel", [None, 1])
def test_a_backup_holds_every_file(site: Path, max_parallel: int | None) -> None:
    request = BackupRequest(str(site), str(site / "backup"), max_parallel=max_parallel)
    result = testing.run(backup_site, request)
    assert result.status == "Completed", result.failure
    assert (result.output.files, result.output.bytes, result.output.objects) == (4, 10 + 256 * 5000, 3)
    assert backup.check_backup(result.output.manifest, str(site)) == []
    assert result.custom_status == "stored 4 files"
    again = testing.run(backup_site, request)
    assert again.output == result.output
    assert not [path for path in (site / "backup").rglob("*") if path.name.startswith(".partial")]


def test_what_celeriac_dev_keeps_is_left_out(site: Path) -> None:
    for folder in (site, site / "sub"):
        (folder / ".celeriac" / "redis").mkdir(parents=True)
        (folder / ".celeriac" / "redis" / "appendonly.aof").write_text("changes while it is read")
    listed = backup.list_files(str(site), str(site / "backup"))
    assert len(listed) == 4, listed


def test_what_is_wrong_with_a_backup_is_said(site: Path) -> None:
    manifest = testing.run(backup_site, BackupRequest(str(site), str(site / "backup"))).output.manifest
    (site / "new").write_text("new")
    (site / "nothing").unlink()
    (site / "a.txt").write_text("changed")
    [damaged] = [
        path
        for path in (site / "backup" / "objects").rglob("*")
        if path.is_file() and path.stat().st_size > 9
    ]
    damaged.write_bytes(b"damaged")
    assert backup.check_backup(manifest, str(site)) == [
        "missing in the backup: new",
        "not in the folder: nothing",
        "other content: a.txt",
        "stored content damaged: sub/ünï\ncode.bin",
    ]
    repaired = testing.run(backup_site, BackupRequest(str(site), str(site / "backup")))
    assert backup.check_backup(repaired.output.manifest, str(site)) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = testing.run(backup_site, BackupRequest(str(tmp_path / "no"), str(tmp_path / "backup")))
    assert result.status == "Failed"
    assert "is not a folder" in str(result.failure)
    with pytest.raises(NonRetryableError, match="git cannot list the files"):
        backup.list_files(str(tmp_path), str(tmp_path / "backup"), tracked_only=True)


# --- fulfil_order ------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> str:
    database = str(tmp_path / "shop.db")
    open_shop(database, {"tea": 10, "cups": 1})
    return database


def order(shop: str, **more: Any) -> Order:
    return Order(shop, "7", **{"lines": [Line("tea", 2), Line("cups")], "cents": 950, **more})


def failed_attempts(result: testing.TestResult) -> list[tuple[str, int]]:
    return [(call.name, call.attempt) for call in result.calls if call.error is not None]


def test_an_order_is_shipped_after_transient_failures(shop: str) -> None:
    result = testing.run(fulfil_order, order(shop, card="flaky:2"))
    assert (result.status, result.output.outcome, result.output.tracking) == (
        "Completed",
        "shipped",
        "parcel-7",
    )
    assert failed_attempts(result) == [("take_payment", 1), ("take_payment", 2)]
    assert result.elapsed == timedelta(seconds=0.5 + 1)
    state = inspect_shop(shop)
    assert (state.stock, state.reserved) == ({"tea": 8, "cups": 0}, {})
    assert (state.payments, state.shipments) == ({"7": Payment(950, "paid")}, {"7": "shipped"})
    assert state.gateway_calls == {"7": 3}


@pytest.mark.parametrize(
    ("change", "outcome", "reason", "payments"),
    [
        ({"card": "declined"}, "declined", "the bank declined the card of order 7", {}),
        ({"lines": [Line("tea", 1), Line("cups", 3)]}, "out_of_stock", "3 of cups wanted, 1 there", {}),
        ({"lines": [Line("gold")]}, "out_of_stock", "1 of gold wanted, 0 there", {}),
        ({"address": "Nowhere 1"}, "undeliverable", "no carrier", {"7": Payment(950, "refunded")}),
    ],
)
def test_an_order_that_fails_leaves_no_trace(
    shop: str, change: dict[str, Any], outcome: str, reason: str, payments: dict[str, Payment]
) -> None:
    result = testing.run(fulfil_order, order(shop, **change))
    assert (result.status, result.output.outcome) == ("Completed", outcome)
    assert reason in result.output.reason
    assert all(attempt == 1 for _, attempt in failed_attempts(result))
    state = inspect_shop(shop)
    assert (state.stock, state.reserved, state.payments) == ({"tea": 10, "cups": 1}, {}, payments)
    assert state.shipments == {}


def test_an_unexpected_failure_is_compensated_and_not_hidden(shop: str) -> None:
    result = testing.run(fulfil_order, order(shop, card="flaky:99"))
    assert result.status == "Failed"
    assert result.failure is not None
    assert result.failure.is_caused_by(orders.GatewayUnavailableError)
    assert inspect_shop(shop).stock == {"tea": 10, "cups": 1}


@pytest.mark.parametrize("slow", ["reserve_stock", "take_payment"])
def test_a_cancelled_order_is_undone(shop: str, slow: str) -> None:
    result = testing.run(
        fulfil_order, order(shop), durations={slow: DAY}, events=[testing.cancel(after=DAY / 2)]
    )
    assert result.status == "Cancelled"
    state = inspect_shop(shop)
    assert state.stock == {"tea": 10, "cups": 1}
    assert all(payment.status == "refunded" for payment in state.payments.values())


def test_a_parcel_on_its_way_is_not_cancelled(shop: str) -> None:
    cancelled = [testing.cancel(after=DAY / 2)]
    result = testing.run(fulfil_order, order(shop), durations={"hand_over": DAY}, events=cancelled)
    assert (result.status, result.output.outcome) == ("Completed", "shipped")


def test_every_step_of_an_order_may_run_twice(shop: str) -> None:
    lines = [Line("tea", 2)]
    for _ in range(2):
        assert orders.reserve_stock(shop, "1", lines) == orders.Reserved("1", lines)
        assert orders.take_payment(shop, "1", 5, "good").transaction == "tx-1"
        assert orders.reserve_stock(shop, "2", [Line("gold")]) == orders.OutOfStock("gold", 1, 0)
    assert inspect_shop(shop).stock["tea"] == 8
    for _ in range(2):
        assert orders.refund_payment(shop, "1") == 5
        assert orders.release_stock(shop, "1") == 2
    assert inspect_shop(shop).stock["tea"] == 10


def test_an_attempt_that_comes_after_the_undo_does_nothing(shop: str) -> None:
    orders.release_stock(shop, "1")
    with pytest.raises(NonRetryableError, match="'reserve' of order 1 was undone"):
        orders.reserve_stock(shop, "1", [Line("tea")])
    assert inspect_shop(shop).stock["tea"] == 10


def test_bad_orders_are_refused(shop: str, tmp_path: Path) -> None:
    with pytest.raises(NonRetryableError, match="a quantity is 1 or more"):
        orders.reserve_stock(shop, "1", [Line("tea", -5)])
    with pytest.raises(NonRetryableError, match="there is no shop database"):
        orders.reserve_stock(str(tmp_path / "none.db"), "1", [])


# --- approve_expense ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "outcome", "by", "escalated", "elapsed", "notices"),
    [
        ([(2 * DAY, True)], "approved", "lee", False, 2 * DAY, 1),
        ([(2 * DAY, False)], "rejected", "lee", False, 2 * DAY, 1),
        ([(29 * DAY, True)], "approved", "lee", False, 29 * DAY, 1),
        ([(31 * DAY, True), (32 * DAY, False)], "approved", "lee", True, 31 * DAY, 2),
        ([], "expired", "nobody", True, 60 * DAY, 2),
    ],
)
def test_an_expense(
    tmp_path: Path, events: list[tuple[timedelta, bool]], outcome: str, by: str, escalated: bool,
    elapsed: timedelta, notices: int,
) -> None:  # fmt: skip
    expense = Expense("trip", "kim", Decimal("120.50"), str(tmp_path), answer_within=30 * DAY)
    answers = [
        testing.event("Approval", {"approved": yes, "by": "lee"}, after=after) for after, yes in events
    ]
    result = testing.run(approve_expense, expense, events=answers)
    assert (result.output.outcome, result.output.decided_by, result.output.escalated) == (
        outcome,
        by,
        escalated,
    )
    assert (result.elapsed, result.custom_status) == (elapsed, outcome)
    assert len(list((tmp_path / "outbox").iterdir())) == notices
    [verdict] = (tmp_path / "verdicts").iterdir()
    assert json.loads(verdict.read_text())["amount"] == "120.50"


def test_a_notice_and_a_verdict_are_written_once(tmp_path: Path) -> None:
    notice = expenses.Notice("lee", "s", "t")
    assert expenses.send_notice(str(tmp_path), notice) == expenses.send_notice(str(tmp_path), notice)
    verdict = expenses.Verdict("../../e", "approved", Decimal(1), "lee", NOON)
    assert Path(expenses.record_verdict(str(tmp_path), verdict)).parent == tmp_path / "verdicts"
