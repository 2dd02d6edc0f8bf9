"""Where the parts of an orchestrator process meet: settings, the user's modules, the store, the loop, the
triggers."""

from __future__ import annotations

import logging
import signal
import types

from celeriac.activities import ACTIVITIES
from celeriac.orchestrations.errors import InvalidArgumentError
from celeriac.orchestrations.registry import REGISTRY
from celeriac.orchestrations.triggers import TRIGGERS

from .activity_worker import imposed
from .app import create_app
from .client.sync import Client
from .emission import Emitter
from .orchestrator.worker import OrchestratorWorker
from .sealing import seal_of
from .settings import Settings
from .store import Store
from .store.server import ensure_startable, info, note_schema
from .triggers.queue import QueueTriggers

__all__ = ["run_orchestrator"]

logger = logging.getLogger("celeriac.orchestrator")


def run_orchestrator(settings: Settings) -> None:
    """Run an orchestrator worker in this process until SIGTERM or SIGINT; call it in the main thread.

    Imports the modules of `settings.apps`, refuses an unsuitable Redis, listens to the declared queues.
    """
    app = create_app(settings)
    if complaint := imposed.complaint(app, settings):
        raise InvalidArgumentError(complaint)
    with Store.connect(settings) as store, Client(settings=settings, store=store) as client:
        for finding in ensure_startable(store.run(info()), settings.redis_url):
            logger.warning("Redis: %s", finding.text)
        store.run(note_schema(store.keys))
        worker = OrchestratorWorker(
            store,
            Emitter(app, settings),
            REGISTRY,
            settings,
            activities=ACTIVITIES.names(),
            about={"lists": imposed.lists(app, settings), "codec": seal_of(settings).name},
        )
        triggers = QueueTriggers(client, TRIGGERS.queues())

        def stop(number: int, _frame: types.FrameType | None) -> None:
            logger.info("%s: finishing the present batch", signal.Signals(number).name)
            worker.stop()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        triggers.start()
        try:
            worker.run()
        finally:
            triggers.stop()
            for number, handler in before.items():
                signal.signal(number, handler)
