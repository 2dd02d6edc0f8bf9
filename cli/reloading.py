"""What `celeriac dev` knows of your code's files: `Code.load` imports the modules in a process of their own,
so that this one stays clean, and `changed` tells which of the files they were made from are new since.

Run as a program it is that process: it imports the modules that the settings name and prints their files.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from celeriac.celery_app.embedded import tethered

LOAD_SECONDS: Final = 120.0

Stamp = tuple[int, int] | None  # time of the last change and size; None where there is no file


class Code:
    """The author's modules, imported the way the processes will import them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._stamps: dict[str, Stamp] = {}

    def load(self) -> str:
        """Import the modules; empty, or what is wrong (the files known so far stay watched then)."""
        try:
            done = subprocess.run(
                tethered([sys.executable, "-m", "celeriac.cli.reloading"]),
                env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=LOAD_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"importing your modules takes longer than {LOAD_SECONDS:g} s"
        if done.returncode:
            return done.stderr.strip() or f"importing your modules ended with exit code {done.returncode}"
        # Looked at before the processes start: what changes from here on is newer than what they run.
        self._stamps = {path: _stamp(path) for path in json.loads(done.stdout.splitlines()[-1])}
        return ""

    def changed(self) -> list[str]:
        """The names of the files that have changed since the last look."""
        now = {path: _stamp(path) for path in self._stamps}
        names = sorted(Path(path).name for path, stamp in now.items() if stamp != self._stamps[path])
        self._stamps = now
        return names


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def author_files(apps: tuple[str, ...], folder: str) -> list[str]:
    """The files of the imported modules: the named ones with what lies below them, and all that come from
    the current folder or `folder`, other than installed packages.
    """
    installed = tuple({f"{sysconfig.get_path(name)}{os.sep}" for name in ("purelib", "platlib", "stdlib")})
    own = (os.getcwd() + os.sep, os.path.abspath(folder) + os.sep)
    found: set[str] = set()
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or name == "__main__":
            continue
        named = any(name == app or name.startswith(f"{app}.") for app in apps)
        if named or (path.startswith(own) and not path.startswith((*installed, sys.prefix + os.sep))):
            found.add(path)
    return sorted(found)


def main() -> int:
    """Import the modules; print their files as JSON, or what is wrong (exit code 2)."""
    from celeriac.celery_app.app import create_app
    from celeriac.celery_app.settings import Settings
    from celeriac.orchestrations.errors import CeleriacError

    try:
        settings = Settings.load(beside_dev=False)
        with contextlib.redirect_stdout(sys.stderr):  # what a module prints is not the answer
            create_app(settings)
    except CeleriacError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(author_files(settings.apps, settings.app_folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
