"""Human interaction: a decision or a deadline, whichever comes first; a missed deadline goes one level up.

    celeriac start approve_expense --id trip -i \
        '{"expense_id": "trip", "employee": "kim", "amount": "120.50", "folder": "expenses",
        "answer_within": "PT60S"}'
    celeriac raise-event trip Approval -i '{"approved": true, "by": "lee"}'
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Literal

from celeriac.activities.shipped.expenses import Notice, Verdict, record_verdict, send_notice
from celeriac.orchestrations import OrchestrationContext, orchestrator, when_any


@dataclass(frozen=True)
class Expense:
    """An expense that somebody must approve."""

    expense_id: str
    employee: str
    amount: Decimal
    folder: str  # for notices and verdicts
    approver: str = "the team lead"
    escalate_to: str = "the head of department"
    answer_within: timedelta = timedelta(days=3)  # for each of the two


@dataclass(frozen=True)
class Decision:
    """The payload of the event `Approval`."""

    approved: bool
    by: str = ""


@dataclass(frozen=True)
class ExpenseResult:
    """How it ended."""

    expense_id: str
    outcome: Literal["approved", "rejected", "expired"]
    decided_by: str
    escalated: bool


@orchestrator
async def approve_expense(ctx: OrchestrationContext, expense: Expense) -> ExpenseResult:
    """Ask the approver; after the deadline ask the next level; after that one the expense expires."""
    decision = await _ask(ctx, expense, expense.approver)
    escalated = decision is None
    if decision is None:
        decision = await _ask(ctx, expense, expense.escalate_to)
    outcome: Literal["approved", "rejected", "expired"] = "expired"
    if decision is not None:
        outcome = "approved" if decision.approved else "rejected"
    decided_by = decision.by if decision is not None else "nobody"
    verdict = Verdict(expense.expense_id, outcome, expense.amount, decided_by, ctx.current_utc_datetime)
    await ctx.call_activity(record_verdict, expense.folder, verdict)
    ctx.set_custom_status(outcome)
    return ExpenseResult(expense.expense_id, outcome, decided_by, escalated)


async def _ask(ctx: OrchestrationContext, expense: Expense, person: str) -> Decision | None:
    """Notify a person and wait for the decision; None when the deadline came first."""
    text = f"{expense.employee} asks for {expense.amount}; answer {ctx.instance_id} with the event Approval."
    notice = Notice(person, f"Expense {expense.expense_id}", text)
    await ctx.call_activity(send_notice, expense.folder, notice)
    ctx.set_custom_status(f"waiting for {person}")
    decision = ctx.wait_for_external_event("Approval", Decision)
    deadline = ctx.create_timer(expense.answer_within)
    if await when_any([decision, deadline]) is deadline:
        return None
    deadline.cancel()
    return decision.result
