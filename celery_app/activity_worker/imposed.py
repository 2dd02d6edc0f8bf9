"""The Celery settings that the engine's promises rest on: imposed when the app is made, asserted when a
worker boots.

A user's module may change the app's configuration after us. A worker with one of these changed would
lose, repeat or mis-report work, so it refuses to start and names the setting.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final

from celery import Celery
from kombu.entity import Queue
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from ..settings import Settings
from ..store.connecting import sentinel_options

__all__ = [
    "CONSUMER",
    "REQUEST",
    "asserted",
    "broker_url",
    "changed",
    "complaint",
    "doubtful",
    "imposed",
    "lists",
    "priority_steps",
]

TRANSPORT_ALIAS: Final = "celeriac"
SENTINEL_ALIAS: Final = "celeriac-sentinel"
TRANSPORT: Final = "celeriac.celery_app.transport.redis:Transport"
SENTINEL_TRANSPORT: Final = "celeriac.celery_app.transport.sentinel:SentinelTransport"
SENTINEL_BACKEND: Final = "celeriac.celery_app.activity_worker.backend:SentinelBackend"
BACKEND: Final = "celeriac.celery_app.activity_worker.backend:Backend"
CONSUMER: Final = "celeriac.celery_app.activity_worker.consumer:Consumer"
REQUEST: Final = "celeriac.celery_app.activity_worker.request:ActivityRequest"

STEPS: Final[list[int]] = list(kombu_redis.PRIORITY_STEPS)
SEPARATOR: Final[str] = kombu_redis.Channel.sep
VISIBILITY_TIMEOUT: Final = 24 * 3600  # stock transport only; recovery is the sweep's, in seconds

_FIXED: Final[dict[str, Any]] = {
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "task_protocol": 2,
    "task_compression": None,
    "task_always_eager": False,
    "task_create_missing_queues": True,
    "task_acks_late": True,
    "task_acks_on_failure": True,  # the outcome has been recorded, and retries are ours
    "task_acks_on_timeout": True,
    "task_reject_on_worker_lost": False,  # would run a task that kills its worker for ever
    "task_retry_on_worker_lost": False,
    "task_track_started": False,
    "task_send_sent_event": False,
    "task_inherit_parent_priority": False,
    "worker_send_task_events": False,
    "worker_enable_remote_control": False,  # anyone who can PUBLISH could revoke or shut down
    "worker_disable_rate_limits": True,  # a rate limit holds messages in the worker's memory
    "worker_prefetch_multiplier": 1,  # our transport adapts by itself how much it takes
    "worker_consumer": CONSUMER,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,  # survive READONLY, UNBLOCKED and OOM replies
    "result_backend_always_retry": True,
}

# Imposed as well, but a user may choose another value.
_DEFAULTS: Final[dict[str, Any]] = {
    "worker_soft_shutdown_timeout": 30.0,
    "worker_lost_wait": 2.0,  # a lost child has written its outcome itself, if it had one
    "worker_hijack_root_logger": True,
    "task_default_delivery_mode": 2,
}

_MISSING: Final = object()

_TRANSPORT_OPTIONS: Final[dict[str, Any]] = {
    "visibility_timeout": VISIBILITY_TIMEOUT,
    "unacked_restore_throttle": 1,
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 5,  # a connection that is silent for twice as long is made anew
}


def broker_url(settings: Settings) -> str:
    """The broker as kombu wants it named; our transport goes under the alias `celeriac`."""
    url = settings.celery_broker_url
    if settings.transport == "stock":
        return url
    # In `redis+socket://` the transport is named by the URL itself and cannot be set beside it.
    return url.replace("redis+socket://", f"{TRANSPORT_ALIAS}+socket://", 1)


def _connection(settings: Settings) -> dict[str, Any]:
    TRANSPORT_ALIASES.setdefault(TRANSPORT_ALIAS, TRANSPORT)
    TRANSPORT_ALIASES.setdefault(SENTINEL_ALIAS, SENTINEL_TRANSPORT)
    alias, backend = (SENTINEL_ALIAS, SENTINEL_BACKEND) if settings.sentinel else (TRANSPORT_ALIAS, BACKEND)
    return {
        "broker_url": broker_url(settings),
        "broker_transport": alias if settings.transport == "celeriac" else None,
        "result_backend": f"{backend}+{settings.celery_result_backend_url}",
        "result_backend_transport_options": _sentinel_options(settings),
    }


def _sentinel_options(settings: Settings) -> dict[str, Any]:
    address = settings.sentinel
    if address is None:
        return {}
    return {"master_name": address.master, "sentinel_kwargs": sentinel_options(address)}


def _transport_options(settings: Settings) -> dict[str, Any]:
    options = {
        **_TRANSPORT_OPTIONS,
        **_sentinel_options(settings),
        "global_keyprefix": settings.queue_prefix,
    }
    if settings.transport == "stock":
        return options
    return {
        **options,
        "hub": settings.hub,
        "lease": settings.lease,
        "beat": settings.beat,
        "max_lost": settings.max_lost,
    }


def imposed(settings: Settings) -> dict[str, Any]:
    """Everything the app is configured with."""
    return {
        **_FIXED,
        **_DEFAULTS,
        **_connection(settings),
        "broker_transport_options": _transport_options(settings),
        "task_default_queue": settings.queue,
        "task_queues": (Queue(settings.queue, routing_key=settings.queue),),
    }


def asserted(settings: Settings) -> dict[str, Any]:
    """The part of it that a worker insists on, beside the transport options."""
    return {**_FIXED, **_connection(settings), "task_default_queue": settings.queue}


def changed(app: Celery, settings: Settings) -> list[str]:
    """One line for each setting that is no longer what the engine needs; empty when all is well."""
    problems = []
    for name, wanted in asserted(settings).items():
        found = app.conf.get(name)
        if found != wanted and not (isinstance(wanted, list) and list(found or ()) == wanted):
            # A URL may hold a password: neither side of the comparison is shown.
            secret = "://" in f"{wanted}{found}"
            shown = "another address" if secret else repr(found)
            needed = "what Celeriac's own settings say (CELERIAC_REDIS_URL)" if secret else repr(wanted)
            problems.append(f"{name} is {shown}, and must be {needed}")
    problems += _unchecked_certificates(app)
    return problems + _changed_options(app.conf.broker_transport_options or {}, settings)


def complaint(app: Celery, settings: Settings) -> str:
    """What a process says that cannot start because of `changed`; empty when it can."""
    problems = changed(app, settings)
    if not problems:
        return ""
    lines = "\n  ".join(problems)
    return (
        f"this process cannot start, because its Celery configuration was changed:\n  {lines}\n"
        "Remove these settings from your modules (app.conf, CELERY_CONFIG_MODULE); "
        "plain Celery tasks with other needs belong in an app and a worker of their own."
    )


def _unchecked_certificates(app: Celery) -> list[str]:
    """TLS without a check of who answers, which Celery itself only warns of."""
    found = []
    for name in ("broker_use_ssl", "redis_backend_use_ssl"):
        options = app.conf.get(name)
        required = options.get("ssl_cert_reqs") if isinstance(options, Mapping) else None
        name_of = str(required).lower().removeprefix("verifymode.").removeprefix("cert_")
        if required is not None and (required == ssl.CERT_NONE or name_of == "none"):
            found.append(f"{name} leaves the certificate unchecked, and must ask for ssl.CERT_REQUIRED")
    return found


def doubtful(app: Celery, settings: Settings) -> list[str]:
    """What may be meant so, but hardly is: one line each."""
    if settings.transport != "stock":
        return []  # our transport returns what a dead worker held, and nothing else
    visibility = (app.conf.broker_transport_options or {}).get("visibility_timeout", VISIBILITY_TIMEOUT)
    tasks: list[Any] = [task for task in app.tasks.values() if getattr(task, "activity", None) is not None]
    longest = max(tasks, key=lambda task: task.activity.options.timeout, default=None)
    if longest is None or longest.activity.options.timeout <= visibility * 1000:
        return []
    length = longest.activity.options.timeout / 1000
    return [
        f"activity {longest.activity.name!r} may take {length:g} s, longer than the visibility timeout of "
        f"the stock transport ({visibility:g} s): a second worker would get it meanwhile; "
        "set broker_transport_options['visibility_timeout'] higher, or use the transport 'celeriac'"
    ]


def priority_steps(app: Celery) -> list[int]:
    """The priorities that have a list of their own in Redis."""
    return list((app.conf.broker_transport_options or {}).get("priority_steps", STEPS))


def lists(app: Celery, settings: Settings) -> dict[str, Any]:
    """How this process names the lists of messages in Redis; all of a hub must do so alike.

    It is part of what an orchestrator or worker says about itself, and `celeriac doctor` compares.
    """
    options = app.conf.broker_transport_options or {}
    return {
        "queue": settings.queue,
        "prefix": options.get("global_keyprefix", ""),
        "separator": options.get("sep", SEPARATOR),
        "priority_steps": priority_steps(app),
    }


def _changed_options(options: Mapping[str, Any], settings: Settings) -> list[str]:
    """The same for the transport options, which a module may have replaced as a whole."""
    problems = []
    for name, wanted in _transport_options(settings).items():
        found = options.get(name, _MISSING)
        if found == wanted:
            continue
        needed = repr(wanted)
        if name == "visibility_timeout":
            if isinstance(found, int | float) and found > wanted:
                continue
            needed = f"at least {wanted}: a shorter one runs long activities twice"
        shown = "missing" if found is _MISSING else repr(found)
        problems.append(f"broker_transport_options[{name!r}] is {shown}, and must be {needed}")
    return problems
