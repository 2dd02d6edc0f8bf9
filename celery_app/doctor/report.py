"""What `celeriac doctor` hands back: facts, and checks with a verdict each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from celeriac.orchestrations.errors import RedisUnavailableError, RedisUnsuitableError

__all__ = ["Check", "Level", "Report"]

Level = Literal["ok", "warn", "refuse"]

FAILED: Final = 1  # what is refused lies on this side, not in Redis
OWN: Final = ("modules", "configuration")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    level: Level
    text: str


@dataclass(slots=True)
class Report:
    """Everything found."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    reachable: bool = True

    @property
    def exit_code(self) -> int:
        """What the process should exit with."""
        if not self.reachable:
            return RedisUnavailableError.exit_code
        refused = {check.name for check in self.checks if check.level == "refuse"}
        if refused.difference(OWN):
            return RedisUnsuitableError.exit_code
        return FAILED if refused else 0

    def to_payload(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "facts": self.facts,
            "checks": [{"name": c.name, "level": c.level, "text": c.text} for c in self.checks],
            "ok": self.exit_code == 0,
        }

    def add(self, name: str, level: Level, text: str) -> None:
        """Note a check."""
        self.checks.append(Check(name, level, text))
