"""Time that tests move, and chance that a seed decides, for the product's modules.

`Virtual.installed()` puts stand-ins for `time`, `random`, `secrets` and `os.urandom` into every loaded
module of celeriac, and only there: Celery, kombu, redis-py and pytest keep the real ones. The scripts get
the same time as their `now` (see gated.py), so nothing in a run depends on how fast the machine is.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

START = 1_700_000_000_000  # milliseconds
_MONOTONIC = 1000.0  # what the monotonic clock shows at START


class _Instead:
    """A module with some of its names replaced."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self._module = module
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Virtual:
    """The clock and the dice of one run."""

    def __init__(self, seed: int = 0) -> None:
        self.ms = START  # milliseconds since the epoch
        self.dice = random.Random(seed)
        self.sleep: Callable[[float], None] = self.advance  # what time.sleep does

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.ms += max(1, round(seconds * 1000))

    def time(self) -> float:
        """Stands for time.time."""
        return self.ms / 1000

    def monotonic(self) -> float:
        """Stands for time.monotonic."""
        return (self.ms - START) / 1000 + _MONOTONIC

    def hexadecimal(self, nbytes: int = 32) -> str:
        """Stands for secrets.token_hex."""
        return self.dice.randbytes(nbytes).hex()

    @contextlib.contextmanager
    def installed(self) -> Iterator[Virtual]:
        """The product's modules see this clock and these dice until the end of the block."""
        chance = {
            name: getattr(self.dice, name) for name in ("uniform", "random", "randint", "choice", "shuffle")
        }
        stand_ins: dict[int, Any] = {
            id(time): _Instead(time, time=self.time, monotonic=self.monotonic, sleep=lambda s: self.sleep(s)),
            id(time.monotonic): self.monotonic,
            id(random): _Instead(random, **chance),
            id(secrets): _Instead(secrets, token_hex=self.hexadecimal),
            id(os): _Instead(os, urandom=self.dice.randbytes),
        }
        changed: list[tuple[dict[str, Any], str, Any]] = []
        for name, module in list(sys.modules.items()):
            if not name.startswith("celeriac."):
                continue
            for attribute, value in list(vars(module).items()):
                if id(value) in stand_ins:
                    changed.append((vars(module), attribute, value))
                    vars(module)[attribute] = stand_ins[id(value)]
        try:
            yield self
        finally:
            for names, attribute, value in changed:
                names[attribute] = value
