"""Lets the tests of this folder import their helpers, and those of the crash sweep."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "faults"))

from simulating import Simulations


@pytest.fixture(scope="module")
def simulations(redis_server: Any, residue_of: Any) -> Iterator[Simulations]:
    """Runs seeds."""
    made = Simulations(f"{redis_server.url}?db=12", residue_of)
    logging.disable(logging.CRITICAL)
    try:
        yield made
    finally:
        logging.disable(logging.NOTSET)
        made.close()
