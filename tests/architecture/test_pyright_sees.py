"""Pyright runs on the real folders; this shows that it would report an error planted in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_pyright_reports_a_planted_error(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(
        "from celeriac.orchestrations.history import TimerFired\n"
        "fired: TimerFired = TimerFired(seq='not a number')\n"
        "reveal_type(fired.seq)\n"
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name("pyright")), "--pythonpath", sys.executable, str(planted)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "planted.py:2:" in done.stdout
    assert 'Type of "fired.seq" is "int"' in done.stdout
