"""A deadline for the author's code.

Author code runs inside the orchestrator's loop, so a turn that blocks holds up every instance of the
process. A watching thread sees how long the current turn has run, at no cost to the turn itself, and

- past `slow` seconds reports it once, by instance, orchestrator and the source line it stands at;
- past `limit` seconds has `TurnDeadlineError` raised in the author's code (a signal, so that a blocking
  call is interrupted too; only possible when the loop runs in the main thread);
- `grace` seconds later speaks the `last_words` and ends the process with `EXIT_STUCK`.

Either way the turn does not count, whatever the author's code made of the exception, and the instance is
charged (see charges.py). Time is what the watcher saw pass: a process that was stopped, or a machine that
stood still, is not held against the author.

Code in C that never lets another thread run would stop the watcher as well. So the watcher keeps pushing
back a timer of faulthandler, which needs no interpreter: when nobody pushes it any more, it prints all
stacks and ends the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger("celeriac.orchestrator")

EXIT_STUCK = 70  # the process ended itself because author code did not return
LOOK_EVERY = 0.25  # seconds between two looks of the watcher
LAST_WORDS = 3.0  # seconds that the last words may take


class TurnDeadlineError(BaseException):
    """Raised inside author code that took too long; the engine catches it. Let it pass."""


class TurnGuard:
    """Watches the turns of one loop. `start()` and `stop()` around it, `watch()` around each turn.

    `last_words` is called in another thread, with the turn because of which the process ends.
    """

    def __init__(
        self,
        slow: float,
        limit: float,
        grace: float = 2.0,
        last_words: Callable[[WatchedTurn], None] = lambda turn: None,
    ) -> None:
        self._slow, self._limit, self._grace, self._last_words = slow, limit, grace, last_words
        self._turn: WatchedTurn | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched: int = 0
        self._previous: Any = signal.SIG_DFL
        self._owns_process = False

    def start(self) -> None:
        """Begin watching the calling thread. In another than the main thread it can only report."""
        self._watched = threading.get_ident()
        self._owns_process = threading.current_thread() is threading.main_thread()
        if self._owns_process:
            self._previous = signal.signal(signal.SIGALRM, self._on_alarm) or signal.SIG_DFL
        self._thread = threading.Thread(target=self._look, name="celeriac-turn-guard", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and give the signal back."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        if self._owns_process:
            signal.signal(signal.SIGALRM, self._previous)

    @contextlib.contextmanager
    def watch(
        self, instance: str, execution: str, orchestrator: str, file: str, claim: str = "", extra: float = 0.0
    ) -> Iterator[WatchedTurn]:
        """The body runs author code, for at most `extra` seconds above the limit. `file` is where its source
        stands, to report the right line; `claim` is empty where it runs outside a turn.

        Afterwards `verdict` of what this yields is not empty if the limit was passed.
        """
        turn = WatchedTurn(instance, execution, orchestrator, file, claim, self._limit + extra)
        self._turn = turn
        try:
            yield turn
        finally:
            self._turn = None

    def rest(self) -> None:
        """No author code runs. Needed only after an exception that may have hit `watch` itself."""
        self._turn = None

    def _on_alarm(self, _signal: int, frame: types.FrameType | None) -> None:
        turn = self._turn
        # A signal sent for a turn that has ended meanwhile must not hit the next one.
        if turn is not None and turn.condemned:
            turn.verdict = turn.judged(_place(frame, turn.file))
            raise TurnDeadlineError(turn.verdict)

    def _look(self) -> None:
        while not self._stopped.wait(LOOK_EVERY):
            if self._owns_process:
                self._push_back()
            turn = self._turn
            if turn is None:
                continue
            now = time.monotonic()
            turn.spent += min(now - turn.looked, 2 * LOOK_EVERY)
            turn.looked, spent = now, turn.spent
            if spent > turn.limit + self._grace and self._owns_process:
                self._end_process(turn)
            elif spent > turn.limit and not turn.condemned and self._owns_process:
                turn.condemned = True
                signal.pthread_kill(self._watched, signal.SIGALRM)
            elif spent > self._slow and not turn.reported:
                turn.reported = True
                logger.warning(
                    "the turn of %s (%s) has been running for %.1f s, %s: orchestrator code must not block; "
                    "move the work into an activity",
                    turn.instance, turn.orchestrator, spent, self._where(turn),
                )  # fmt: skip
        if self._owns_process:
            faulthandler.cancel_dump_traceback_later()

    def _push_back(self) -> None:
        """Re-arm the timer that ends the process when this thread is no longer run at all."""
        # Without a stderr that is a file (under a test runner, say) there is no such timer; the rest still
        # holds.
        with contextlib.suppress(RuntimeError, ValueError, AttributeError, OSError):
            limit = turn.limit if (turn := self._turn) is not None else self._limit
            faulthandler.dump_traceback_later(limit + 2 * self._grace + LAST_WORDS + 2, exit=True)

    def _where(self, turn: WatchedTurn) -> str:
        return _place(sys._current_frames().get(self._watched), turn.file)

    def _end_process(self, turn: WatchedTurn) -> None:
        place = self._where(turn)
        turn.verdict = f"{turn.judged(place)}, did not let itself be interrupted, and so ended its process"
        logger.critical(
            "the turn of %s (%s) did not return for %.1f s, %s: this process ends, "
            "another one takes over its work and tries this instance alone",
            turn.instance, turn.orchestrator, turn.spent, place,
        )  # fmt: skip
        words = threading.Thread(target=self._last_words, args=(turn,), daemon=True)
        words.start()
        words.join(LAST_WORDS)
        logging.shutdown()
        os._exit(EXIT_STUCK)


class WatchedTurn:
    """The turn that runs now."""

    __slots__ = (
        "claim", "condemned", "execution", "file", "instance", "limit", "looked", "orchestrator", "reported",
        "spent", "verdict",
    )  # fmt: skip

    def __init__(
        self, instance: str, execution: str, orchestrator: str, file: str, claim: str, limit: float
    ) -> None:
        self.instance, self.execution, self.orchestrator = instance, execution, orchestrator
        self.file, self.claim, self.limit = file, claim, limit
        self.looked, self.spent = time.monotonic(), 0.0
        self.condemned = self.reported = False
        self.verdict = ""  # what is wrong with it, once it has run for too long

    def judged(self, place: str) -> str:
        """What is wrong with it."""
        what = "a turn of" if self.claim else "closing an execution of"
        return f"{what} {self.orchestrator} ran longer than {round(self.limit, 1):g} s, {place}"


def _place(frame: types.FrameType | None, file: str) -> str:
    """The innermost line inside the author's file, else the innermost line at all."""
    innermost = frame
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    found = frame or innermost
    return f"at {found.f_code.co_filename}:{found.f_lineno}" if found is not None else "at an unknown line"
