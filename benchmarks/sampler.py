"""python -m benchmarks.sampler FOLDER NAME module ...: runs that module as `python -m` does, and samples it.

Every few milliseconds of its CPU time (ITIMER_PROF) the stack of the main thread is counted, in each process
that is forked from it too, and the counts are written to FOLDER a few times a second, because a pool's child
ends without notice. Far cheaper than cProfile, so what it shows is what runs. C code counts for the Python
function that called it.
"""

from __future__ import annotations

import collections
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from types import FrameType

INTERVAL = 0.002  # seconds of CPU time; the kernel may round it up to its tick
FLUSH = 0.3  # seconds between two writings

_site = str(Path(os.__file__).parent)
_here = str(Path(__file__).parents[1])


class Sampler:
    """Counts of functions: by themselves, and with all that they call."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.begin()
        os.register_at_fork(after_in_child=self.begin)
        signal.signal(signal.SIGPROF, self.sample)

    def begin(self) -> None:
        """In a fresh process: count from nothing."""
        self.total, self.flushed = 0, time.monotonic()
        self.own: collections.Counter[str] = collections.Counter()
        self.within: collections.Counter[str] = collections.Counter()
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def sample(self, _number: int, frame: FrameType | None) -> None:
        """Count one stack."""
        self.total += 1
        first, seen = True, set[str]()
        while frame is not None:
            code = frame.f_code
            label = f"{code.co_filename}:{code.co_qualname}"
            if first:
                self.own[label] += 1
                first = False
            if label not in seen:
                seen.add(label)
                self.within[label] += 1
            frame = frame.f_back
        if time.monotonic() - self.flushed > FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what was counted so far, whole or not at all."""
        self.flushed = time.monotonic()
        path = self.folder / f"{self.name}.{os.getpid()}.json"
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps({"total": self.total, "own": self.own, "within": self.within}))
        partial.replace(path)


def shortened(label: str) -> str:
    """`file:function` without what is the same on every line."""
    path, _, function = label.rpartition(":")
    for prefix in (f"{_site}/site-packages/", f"{_site}/", f"{_here}/.venv/links/", f"{_here}/"):
        path = path.removeprefix(prefix)
    return f"{path.rpartition('site-packages/')[2]}:{function}"


def main() -> None:
    """Run the module that the command line names."""
    folder, name, module, *rest = sys.argv[1:]
    sys.argv = [module, *rest]
    sampler = Sampler(Path(folder), name)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        sampler.flush()


if __name__ == "__main__":
    main()
