"""Redis servers that ask for a login or TLS, each for one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guarded import BINARIES, Guarded, Serve


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a Redis with these options; all are killed at the end."""
    running: list[Guarded] = []

    def start(*options: str, binary: str = "system", **login: Any) -> Guarded:
        made = Guarded(binary if binary in BINARIES else next(iter(BINARIES)), tmp_path, options, **login)
        running.append(made)
        return made

    try:
        yield start
    finally:
        for one in running:
            one.stop()
