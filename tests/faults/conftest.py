"""The crash sweep's crew on a database of its own, and a way for its modules to find each other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scenarios import ACTIVITIES, EFFECTS, REGISTRY
from stage import Crew
from sweeping import Sweeper


@pytest.fixture(scope="module")
def sweeper(redis_server: Any, residue_of: Any) -> Iterator[Sweeper]:
    """Runs scenarios with faults."""
    crew = Crew(f"{redis_server.url}?db=11", REGISTRY, ACTIVITIES, EFFECTS)
    logging.disable(logging.CRITICAL)  # thousands of deaths, each with its warnings
    try:
        yield Sweeper(crew, residue_of)
    finally:
        logging.disable(logging.NOTSET)
        crew.raw.flushdb()
        crew.close()
