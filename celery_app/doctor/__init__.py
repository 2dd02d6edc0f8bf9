"""What `celeriac doctor` finds: facts about this installation and its Redis, and checks with a verdict each.

A check is `ok`, `warn` (works, but think about it) or `refuse` (the engine's promises do not hold, and no
orchestrator or worker starts). The report's exit code is 0 unless one refuses: 11 for a Redis that must not
be used, 1 for modules or a configuration; it is 10 when Redis does not answer.
"""

from __future__ import annotations

from dataclasses import replace

from celery import Celery

from celeriac.orchestrations.errors import CeleriacError, RedisUnavailableError
from celeriac.orchestrations.registry import Registry
from celeriac.orchestrations.triggers import TRIGGERS

from ..activity_worker import imposed
from ..app import worker_queues
from ..client.driving import drive
from ..client.operations import Operations
from ..settings import Settings
from ..store import Store, server
from . import installation, processes, redis
from .report import Check, Report

__all__ = ["Check", "Report", "examine"]


def examine(settings: Settings) -> Report:
    """Look at everything; never raises for what it finds. Imports the modules of `settings.apps`."""
    report = Report()
    installation.note_facts(report, settings)
    installation.check_access(report, settings)
    app = installation.check_app(report, settings)
    store = Store.connect(settings)
    try:
        _examine_redis(report, settings, store, app)
    except RedisUnavailableError as error:
        report.reachable = False
        report.add("redis", "refuse", str(error))
    except CeleriacError as error:
        report.add("redis", "refuse", str(error))
    finally:
        store.close()
    return report


def _examine_redis(report: Report, settings: Settings, store: Store, app: Celery | None) -> None:
    redis.check_schema(report, store)  # first: what a newer release wrote may not be readable below
    # Not by the client: it refuses an unsuitable Redis at once, and here we want to say all that is wrong.
    looking_on = Operations(replace(settings, codec=""), Registry()).inspection
    alive = drive(looking_on.workers(), store)
    served = drive(looking_on.served(), store)
    info = store.run(server.info())
    redis.note_facts(report, store, info)
    redis.check_server(report, info)
    redis.check_durability(report, store, info)
    redis.check_clock(report, store)
    listened = [str(queue) for process in alive for queue in process.info.get("queues", ())]
    declared = worker_queues(app) if app is not None else ()
    triggers = [trigger.queue for trigger in TRIGGERS.queues()]
    redis.check_neighbours(report, settings, store, info, [*listened, *declared, *triggers])
    processes.check_processes(report, alive)
    processes.check_agreement(report, alive)
    processes.check_codec(report, settings, alive)
    report.facts["Served"] = {
        "orchestrators": ", ".join(sorted(served.orchestrators)) or "none so far",
        "activities": ", ".join(sorted(served.activities)) or "none so far",
    }
    steps = imposed.priority_steps(app) if app is not None else imposed.STEPS
    processes.check_queues(report, settings, store, alive, steps)
