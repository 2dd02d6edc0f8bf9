"""What is charged to an instance, and the words for it.

An instance is charged when its process dies while it runs it alone (the sweep does that), and when its turn
shows itself to be at fault: it passed its deadline, ran out of memory, or raised what is meant for the
process. `max_crashes` charges in a row suspend it; a commit wipes them out, and so does a resume.

An instance that was charged, or whose process died, is claimed alone. Alone, its execution is closed before
its turn is committed, so that `finally` blocks that do not end are charged too.
"""

from __future__ import annotations

import logging

from celeriac.orchestrations.errors import CeleriacError

from ..sealing import hidden
from ..settings import Settings
from ..store import Store, turns
from ..store.records import Claimed
from .answers import Wait
from .deadline import WatchedTurn

logger = logging.getLogger("celeriac.orchestrator")

FIRST_DELAY, LONGEST_DELAY = 1000, 30_000  # ms until a charged instance is tried again, doubled each time


def charged(claimed: Claimed, what: str, settings: Settings) -> Wait:
    """Hand the instance back, and count it against it."""
    count = claimed.crashes + 1
    delay = min(LONGEST_DELAY, FIRST_DELAY << min(claimed.crashes, 10))
    if count < settings.max_crashes:
        reason = f"{what} (charged {count} of {settings.max_crashes} times, then it is suspended)"
        logger.error("%s waits, next try in %g s: %s", claimed.instance, delay / 1000, hidden(reason))
    else:
        reason = f"{what}. It was charged {count} times in a row; deploy mended code, then resume it"
        logger.error("%s is suspended: %s", claimed.instance, hidden(reason))
    return Wait(claimed, delay, reason, charge=True)


def condemned(claimed: Claimed) -> Wait:
    """Hand back an instance whose processes died too often: the release suspends it."""
    reason = (
        f"while it ran alone its orchestrator process died {claimed.crashes} times; "
        "look for code that blocks or ends the process, then resume it"
    )
    logger.error("%s is suspended: %s", claimed.instance, reason)
    return Wait(claimed, 0, reason)


class LastWords:
    """What a process says that ends itself because a turn does not return: who is to blame, and that all
    others it holds are not. Without these words (Redis is away) the sweep finds out, a lease later.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.incarnation = ""

    def __call__(self, turn: WatchedTurn) -> None:
        try:
            with Store.connect(self._settings) as store:  # the loop may hold a lock of its own store
                self._speak(store, turn)
        except CeleriacError as error:
            logger.warning("nobody could be told that %s is to blame: %s", turn.instance, error)

    def _speak(self, store: Store, turn: WatchedTurn) -> None:
        keys, most = store.keys, self._settings.max_crashes
        if turn.claim:
            reason = f"{turn.verdict}; deploy mended code"
            release = turns.release(
                keys, turn.instance, turn.claim, FIRST_DELAY, reason, charge=True, most=most
            )
            store.run(release)
        else:
            store.run(turns.accuse(keys, turn.instance, turn.execution))
        while store.run(turns.hand_back(keys, self.incarnation)):
            logger.info("handed claims back")
