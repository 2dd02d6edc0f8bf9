"""Notices and decisions about expenses, as files in a folder. Each is written once, however often it is
asked for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from ..model import activity
from ._files import replacing


@dataclass(frozen=True)
class Notice:
    """A message to a person."""

    to: str
    subject: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """How an expense ended."""

    expense_id: str
    outcome: str  # approved, rejected or expired
    amount: Decimal
    decided_by: str
    decided_at: datetime


@activity
def send_notice(folder: str, notice: Notice) -> str:
    """Put a notice into the folder `outbox`; returns its file. The same notice gives the same file."""
    text = json.dumps(asdict(notice), indent=1, ensure_ascii=False).encode()
    target = Path(folder) / "outbox" / f"{hashlib.sha256(text).hexdigest()[:16]}.json"
    with replacing(target) as file:
        file.write(text)
    return str(target)


@activity
def record_verdict(folder: str, verdict: Verdict) -> str:
    """Put a verdict into the folder `verdicts`; returns its file, one for each expense."""
    form = {**asdict(verdict), "amount": str(verdict.amount), "decided_at": verdict.decided_at.isoformat()}
    name = hashlib.sha256(verdict.expense_id.encode()).hexdigest()[:16]
    target = Path(folder) / "verdicts" / f"{name}.json"
    with replacing(target) as file:
        file.write(json.dumps(form, indent=1, ensure_ascii=False).encode())
    return str(target)
