"""A trouble that lasts is told once when it begins, again every half minute, and when it is over."""

from __future__ import annotations

import logging
import time

__all__ = ["Complaints"]

EVERY = 30.0  # seconds between two lines about the same trouble


class Complaints:
    """About one thing, of one process. Threads may share it: at worst a line is written twice."""

    def __init__(self, logger: logging.Logger, every: float = EVERY) -> None:
        self._logger, self._every = logger, every
        self._since = self._again_at = 0.0
        self._kept_back = 0

    def about(self, text: str, *args: object, level: int = logging.WARNING) -> None:
        """The trouble is there (still); `text` and `args` as for a logger."""
        now = time.monotonic()
        if now < self._again_at:
            self._kept_back += 1
            return
        more = f" ({self._kept_back} more lines like this were kept back)" if self._kept_back else ""
        self._logger.log(level, text + more, *args)
        self._since, self._kept_back = self._since or now, 0
        self._again_at = now + self._every

    def over(self, text: str) -> None:
        """All is well: says `text` when it was not, and for how long."""
        if self._since:
            self._logger.warning("%s, after %.1f s", text, time.monotonic() - self._since)
            self._since = self._again_at = 0.0
            self._kept_back = 0
