"""The worker's side of its beat helper (beat.py): starts it, hears it, and beats itself while it does not.

The helper lives until the worker's process ends, because activities still run while a worker stops. Its pipe
is closed in every forked child: a child that outlives its parent must not keep the parent's lease alive.

The helper says a word after every beat. A thread of the worker waits for these words. When the helper has
died, the thread starts another one and, until that one is heard, beats in its place; so it does when no word
comes for two beats. So a helper that is killed or stopped costs no more than two beats of the lease, which
is two beats long at least, unless at the same time a C call of the worker holds the GIL: then the thread
starves, and the lease may lapse.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from celeriac.orchestrations.errors import CeleriacError

from .. import forking
from ..settings import Settings
from ..store import Store, flights
from .inflight import ROSTER

__all__ = ["Helper"]

logger = logging.getLogger("celeriac.beat")


class Helper:
    """The helper of this process. `start()` once, in the worker's main process."""

    def __init__(self, settings: Settings, info: dict[str, Any]) -> None:
        self._settings, self._info = settings, info
        self._process: subprocess.Popen[bytes] | None = None
        self._names: set[str] = set()
        self._started = 0.0
        # Held while a helper is started: a child forked in that moment would keep its pipe open.
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the helper and hand it every incarnation from now on."""
        self._spawn()
        os.register_at_fork(
            before=lambda: self._lock.acquire(),
            after_in_parent=lambda: self._lock.release(),
            after_in_child=self._forget,
        )
        ROSTER.listener = self.follow
        self.follow(set(ROSTER.names))
        threading.Thread(target=self._keep, name="celeriac-beat", daemon=True).start()

    def follow(self, names: set[str]) -> None:
        """These are the worker's incarnations now."""
        with self._lock:
            self._names = names
            self._write({"incarnations": sorted(names)})

    def _spawn(self) -> None:
        command = [sys.executable, "-m", f"{__package__}.beat"]
        with self._lock:
            self._started = time.monotonic()
            # A session of its own: a Ctrl-C in the terminal is for the worker.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self._write({"settings": asdict(self._settings), "worker": os.getpid(), "info": self._info})
            self._write({"incarnations": sorted(self._names)})

    def _write(self, message: dict[str, Any]) -> None:
        pipe = self._process.stdin if self._process is not None else None
        if pipe is not None:
            with suppress(OSError):  # it is dead: the thread that hears it will see
                pipe.write(json.dumps(message).encode() + b"\n")
                pipe.flush()

    def _forget(self) -> None:
        """In a forked child."""
        self._lock = threading.Lock()
        process, self._process = self._process, None
        for pipe in (process.stdin, process.stdout) if process is not None else ():
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    # --- the thread ---

    def _keep(self) -> None:
        while True:
            try:
                self._hear()
                self._spawn()
            except Exception:
                # Nobody is above this thread, and without it a dead helper would not be replaced.
                with forking.held_off():
                    logger.exception("the beat helper could not be looked after; trying again")
                self._beat()
                time.sleep(self._settings.beat)

    def _hear(self) -> None:
        """Until the helper is dead."""
        process = self._process
        if process is None or process.stdout is None or process.stdout.closed:
            return  # closed: the last try to start another one failed
        patience = 0.0  # nobody beats before the new one says so
        heard = select.poll()  # not select(), which fails in a process with more than 1,024 files open
        heard.register(process.stdout, select.POLLIN)
        while True:
            if not heard.poll(patience * 1000):
                self._beat()
                patience = self._settings.beat
            elif os.read(process.stdout.fileno(), 4096):
                patience = 2 * self._settings.beat
            else:
                break
        process.kill()  # it is; or it cannot be heard any more, and there must not be two
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        with forking.held_off():
            logger.warning("the beat helper ended (exit code %s); another one is started", code)
        if (young := self._started + self._settings.beat - time.monotonic()) > 0:
            self._beat()
            time.sleep(young)  # one that cannot even start must not be started all the time

    def _beat(self) -> None:
        """In the helper's place."""
        lease, info = int(self._settings.lease * 1000), json.dumps(self._info)
        with forking.held_off():
            try:
                with Store.connect(self._settings, at_once=1) as store:
                    calls = [flights.beat(store.keys, n, lease, info=info) for n in sorted(self._names)]
                    with forking.allowed():
                        store.run_all(calls)
            except (CeleriacError, OSError) as error:
                logger.debug("no beat in the helper's place: %s", error)
