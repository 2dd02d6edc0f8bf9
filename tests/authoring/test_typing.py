"""A type checker knows the parameters and the result of every call an orchestrator makes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TYPED = Path(__file__).parent / "typed"
BAD = TYPED / "bad.txt"  # no .py, so that checks of the whole project do not find its errors
MARK = "# error:"


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str]]:
    """What pyright says about the files in `typed`, by file and line."""
    venv = Path(sys.prefix)
    folder = tmp_path_factory.mktemp("typing")
    (folder / "typed").mkdir()
    shutil.copy(TYPED / "good.py", folder / "typed")
    shutil.copy(BAD, folder / "typed" / "bad.py")
    config = {
        "include": ["typed"],
        "venvPath": str(venv.parent),
        "venv": venv.name,
        "pythonVersion": "3.11",
        "typeCheckingMode": "standard",
    }
    project = folder / "pyrightconfig.json"
    project.write_text(json.dumps(config))
    ran = subprocess.run(
        [venv / "bin" / "pyright", "--outputjson", "--project", project],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    found: dict[str, dict[int, str]] = {"good.py": {}, "bad.py": {}}
    report = json.loads(ran.stdout)
    assert report["summary"]["filesAnalyzed"] == 2, ran.stdout
    for each in report["generalDiagnostics"]:
        lines = found[Path(each["file"]).name]
        lines.setdefault(each["range"]["start"]["line"] + 1, each["message"])
    return found


def test_correct_code_is_accepted(reported: dict[str, dict[int, str]]) -> None:
    assert reported["good.py"] == {}


def test_each_planted_error_is_reported_and_nothing_else(reported: dict[str, dict[int, str]]) -> None:
    lines = BAD.read_text().splitlines()
    planted = {number: line.strip() for number, line in enumerate(lines, 1) if MARK in line}
    assert len(planted) > 10
    assert sorted(reported["bad.py"]) == sorted(planted), reported["bad.py"]
