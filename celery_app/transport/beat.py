"""The beat of a worker: a helper process that renews its leases, and dies with it.

`python -m celeriac.celery_app.transport.beat`, started by `helper.py`. A thread of the worker would
starve behind a C call that holds the GIL; a process of its own does not. It reads JSON lines from standard
input: first `{"settings": {...}, "worker": pid, "info": {...}}`, then `{"incarnations": [...]}` whenever
they change. End of file, or another parent, means that the worker is dead: its messages return to their
queues at once, and the helper ends. After each beat it writes a line to standard output, so that the worker
(helper.py) knows that it need not beat itself.

While the worker lives, every beat renews its leases, returns the messages of other, dead workers and
promotes due retries. A worker that is stopped (SIGSTOP) gets no beat: its lease lapses like that of a
dead one.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from celeriac.orchestrations.errors import CeleriacError

from ..complaints import Complaints
from ..settings import Settings
from ..store import Store, flights
from ..store.errors import FencedError

__all__ = ["Beat", "main"]

logger = logging.getLogger("celeriac.beat")

PROMOTE = 100
SWEEP = 200
RETRY_AFTER = 0.2  # seconds between tries to return what a dead worker held


class Beat:
    """The beats of one worker process."""

    def __init__(self, store: Store, settings: Settings, worker: int, info: dict[str, Any]) -> None:
        self._store, self._worker = store, worker
        self._lease, self._info = int(settings.lease * 1000), json.dumps(info)
        self._max_lost = settings.max_lost
        self.incarnations: set[str] = set()
        self._unheard = Complaints(logger)

    def worker_is_dead(self) -> bool:
        """Whether somebody else became our parent."""
        return os.getppid() != self._worker

    def tick(self) -> None:
        """One beat: leases, dead workers, due retries.

        A Redis that is away is tried again at the next beat.
        """
        try:
            if not self._worker_is_stopped():
                self._renew()
            keys = self._store.keys
            sweep = flights.sweep_flights(keys, SWEEP, lease=self._lease, max_lost=self._max_lost)
            while self._store.run(sweep).returned >= SWEEP:
                pass  # bounded work per call; the next call goes on
            self._store.run(flights.promote(keys, PROMOTE))
        except CeleriacError as error:
            self._unheard.about("the beat of worker %d was not heard: %s", self._worker, error)
        else:
            self._unheard.over(f"the beat of worker {self._worker} is heard again")

    def _renew(self) -> None:
        names = sorted(self.incarnations)
        calls = [flights.beat(self._store.keys, name, self._lease, info=self._info) for name in names]
        for name, answer in zip(names, self._store.run_all(calls), strict=True):
            if isinstance(answer, FencedError):  # the worker finds out at its next take
                self.incarnations.discard(name)
            elif isinstance(answer, Exception):
                logger.warning("the beat of %s was refused: %s", name, answer)

    def _worker_is_stopped(self) -> bool:
        try:
            state = Path(f"/proc/{self._worker}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):  # no /proc here: only death is noticed
            return False
        return state in "Tt"

    def give_up(self) -> None:
        """The worker is dead: return what it held."""
        end = monotonic() + self._lease / 1000  # then the sweep of others does it
        while self.incarnations:
            name = min(self.incarnations)
            try:
                self._store.run(flights.forget(self._store.keys, name, self._lease, max_lost=self._max_lost))
            except CeleriacError as error:
                if monotonic() >= end:
                    logger.warning("messages of worker %d wait for the sweep: %s", self._worker, error)
                    return
                sleep(RETRY_AFTER)
            else:
                self.incarnations.discard(name)


def _lines() -> tuple[list[bytes], bool]:
    """The lines that wait on standard input, and whether it has ended."""
    data = os.read(0, 1 << 16)
    while data and not data.endswith(b"\n"):
        more = os.read(0, 1 << 16)
        if not more:
            return [], True
        data += more
    return data.splitlines(), not data


def _say_so() -> bool:
    """Tell the worker that there was a beat; False when nobody reads it any more."""
    try:
        os.write(1, b"\n")
    except BlockingIOError:
        pass  # full of words that it has had no time to read
    except BrokenPipeError:
        return False
    return True


def main() -> None:
    """Run until the worker is gone."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # sent to the whole group; the worker still finishes what runs
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    lines, ended = _lines()
    if ended:
        return
    first = json.loads(lines[0])
    settings = Settings(**{**first["settings"], "apps": tuple(first["settings"]["apps"])})
    with Store.connect(settings, at_once=2) as store:
        beat = Beat(store, settings, first["worker"], first["info"])
        _follow(beat, lines[1:], settings.beat)
        beat.give_up()


def _follow(beat: Beat, lines: list[bytes], every: float) -> None:
    due = monotonic()
    os.set_blocking(1, False)
    while True:
        for line in lines:
            beat.incarnations = set(json.loads(line)["incarnations"])
        lines = []
        if beat.worker_is_dead():  # perhaps since before this helper had started
            return
        if monotonic() >= due:
            beat.tick()
            if not _say_so():
                return
            due = monotonic() + every
        readable, _, _ = select.select([0], [], [], max(0.0, due - monotonic()))
        if readable:
            lines, ended = _lines()
            if ended:
                return


if __name__ == "__main__":
    main()
    sys.exit(0)
