"""Would a test notice? Breaks the engine on purpose, one small change at a time, in a copy of it.

`make mutants` says for each change of `mutations.py` who notices: the simulation (up to SEEDS seeds), and
the test that `mutations.py` names. `make mutants ONLY=retry,claim` takes those whose name contains one of
the words; LAYERS=simulation, named, sweep (the crash sweep's sample), store (tests/store), or several with
commas, says who is asked. It fails when nobody notices a change that is not called harmless, or when a named
test does not. The working tree is never touched: the copy, with its own Redis, lives in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutations import MUTATIONS, NAMED, Edit, Mutation

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrations", "activities", "celery_app", "cli")
LAYERS = {
    "simulation": ["tests/simulation", "-k", "model"],
    "sweep": ["tests/faults"],
    "store": ["tests/store", "-k", "not system"],
}
ASKED = "simulation,named"
COPIED = ("tests", "docs", "README.md", "CHANGELOG.md", "celeriac.acl", "Makefile", "pyproject.toml")
TOO_LONG = 420.0  # seconds a layer may take; a mutant that hangs is noticed too


class Copy:
    """A copy of the code and its tests, as it is in the working tree."""

    def __init__(self, home: Path) -> None:
        self.home = home
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", *PACKAGES, *COPIED],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in listed.stdout.splitlines():
            target = home / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        links = home / "links" / "celeriac"
        links.mkdir(parents=True)
        for package in PACKAGES:
            (links / package).symlink_to(home / package)

    def change(self, edit: Edit, *, back: bool = False) -> None:
        """Make the edit, or undo it; the text to replace must be there exactly once."""
        file, old, new = edit
        path = self.home / file
        text = path.read_text("utf-8")
        if back:
            path.write_text((ROOT / file).read_text("utf-8"), "utf-8")
        elif text.count(old) != 1:
            raise SystemExit(f"{file} has {text.count(old)} times {old!r}: bring mutations.py up to date")
        else:
            path.write_text(text.replace(old, new), "utf-8")

    def run(self, what: list[str], seeds: int) -> str:
        """What these tests say: 'passes', or how they noticed."""
        links = str(self.home / "links")
        env = {
            **os.environ,
            "PYTHONPATH": links,
            "PYTHONDONTWRITEBYTECODE": "1",
            "SEEDS": str(seeds),
            "STOP": "1",
        }
        env.pop("SEED", None)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", "timeout=0"]
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                [*command, *what],
                cwd=self.home,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                process.wait(TOO_LONG)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with the Redis that it started
                process.wait()
                return "hangs"
            log.seek(0)
            return _said(process.returncode, log.read())


def _said(code: int, log: str) -> str:
    if code == 0:
        return "passes"
    if code != 1:
        raise SystemExit(log[-4000:])
    seed = re.search(r"^seed (\d+): make simulate SEED=\d+\n +(.*)", log, re.M)
    if seed:
        return f"seed {seed[1]}: {seed[2][:110]}"
    failed = re.search(r"^FAILED (\S+)", log, re.M) or re.search(r"^ERROR (\S+)", log, re.M)
    return failed[1].split("/")[-1] if failed else log[-300:]


def main() -> int:
    """Print the table; 1 if nobody notices a mutation that somebody should, or not the test that is named."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--only", default="")
    asked.add_argument("--layers", default=ASKED)
    asked.add_argument("--seeds", type=int, default=150)
    asked.add_argument("--part", default="0/1", help="i/n: every n-th mutation from the i-th on")
    wanted = asked.parse_args()
    first, step = map(int, wanted.part.split("/"))
    words = wanted.only.split(",")
    chosen = [m for m in MUTATIONS if any(word in m.name for word in words)][first::step]
    unnoticed: list[Mutation] = []
    misnamed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        copy = Copy(Path(folder))
        for mutation in chosen:
            for edit in mutation.edits:
                copy.change(edit)
            print(f"{mutation.name}: {mutation.what}", flush=True)
            said: dict[str, str] = {}
            for layer in wanted.layers.split(","):
                if (tests := _tests(layer, mutation)) is None:
                    continue
                began = time.monotonic()
                said[layer] = copy.run(tests, wanted.seeds)
                print(f"    {layer:10} {time.monotonic() - began:4.0f} s  {said[layer]}", flush=True)
            for edit in mutation.edits:
                copy.change(edit, back=True)
            if said.get("named") == "passes":
                misnamed.append(mutation.name)
            if all(each == "passes" for each in said.values()):
                unnoticed.append(mutation)
    for mutation in unnoticed:
        print(f"{mutation.name} is not noticed" + (f": {mutation.harmless}" if mutation.harmless else ""))
    print(f"{len(chosen)} mutations, {len(chosen) - len(unnoticed)} noticed")
    if misnamed:
        print(f"not noticed by the test that is named: {', '.join(misnamed)}")
    return int(any(not m.harmless for m in unnoticed) or bool(misnamed))


def _tests(layer: str, mutation: Mutation) -> list[str] | None:
    """What to ask pytest for; None when the mutation names no test."""
    if layer != "named":
        return LAYERS[layer]
    return [NAMED[mutation.name], "-k", "not system"] if mutation.name in NAMED else None


if __name__ == "__main__":
    raise SystemExit(main())
