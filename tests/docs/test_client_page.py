"""The page about the client, played against the processes of `celeriac dev` in the folder of its code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from spoken import PATIENCE, Spoken, clean_environment

ROOT = Path(__file__).parents[2]
PLAY = """
import asyncio, json, page, sys
booked = page.book_and_wait()
page.look()
found = [booked.to, asyncio.run(page.book_many(["Rome", "Bern"])), page.act(), page.refused()]
print(json.dumps(found))
"""


def test_the_client_page_does_what_it_says(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "how-to" / "client.md").read_text(encoding="utf-8")
    code = "\n\n".join(part.partition("```")[0] for part in text.split("```python\n")[1:])
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    dev = Spoken(tmp_path, "dev", "--app", "page", "--workers", "0", "--no-reload")
    try:
        dev.until("Ready.", "book")
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PLAY], cwd=tmp_path, env=clean_environment(),
            capture_output=True, text=True, timeout=2 * PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == [
            "Oslo",
            ["Rome", "Bern"],
            "too expensive",
            [5, 2, 4],
        ]
        assert dev.stop() == 0
    finally:
        dev.put_down()
