"""Hazards that one setting of Celery or kombu decides: the installed default has it, ours is imposed.

When upstream changes a default one of these fails, and we look whether the setting is still needed.
"""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu.transport import redis as kombu_redis

from celeriac.activities import ActivityRegistry
from celeriac.celery_app.activity_worker import imposed
from celeriac.celery_app.app import create_app
from celeriac.celery_app.settings import Settings

# hazard: the setting, what Celery makes of it, and what ours is
SETTINGS: dict[str, tuple[str, Any, Any]] = {
    "h03": ("task_acks_late", False, True),
    "h04": ("task_reject_on_worker_lost", None, False),
    "h04-retry": ("task_retry_on_worker_lost", False, False),
    "h07": ("broker_channel_error_retry", False, True),
    "h12": ("worker_cancel_long_running_tasks_on_connection_loss", False, False),
    "h16": ("result_backend_always_retry", False, True),
    "h20": ("worker_prefetch_multiplier", 4, 1),
    "h31": ("worker_enable_remote_control", True, False),
    "h32": ("worker_disable_rate_limits", False, True),
    "h33": ("task_always_eager", False, False),
}
# hazard: the transport option, kombu's own value, ours
OPTIONS: dict[str, tuple[str, Any, Any]] = {
    "h10": ("visibility_timeout", 3600, imposed.VISIBILITY_TIMEOUT),
    "h13": ("unacked_restore_throttle", 10, 1),
    "h18": ("socket_timeout", None, 10),
}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings()


@pytest.fixture
def app(settings: Settings) -> Any:
    return create_app(settings, registry=ActivityRegistry(), load=False)


@pytest.mark.parametrize("hazard", SETTINGS)
def test_h_settings_are_imposed(app: Celery, settings: Settings, hazard: str) -> None:
    """A worker whose modules set it back refuses to start, and names it."""
    name, theirs, ours = SETTINGS[hazard]
    assert Celery(set_as_current=False).conf.get(name) == theirs
    assert (app.conf.get(name), imposed.changed(app, settings)) == (ours, [])
    other = theirs if theirs != ours else not ours
    app.conf[name] = other
    assert f"{name} is {other!r}, and must be {ours!r}" in imposed.complaint(app, settings)


@pytest.mark.parametrize("hazard", OPTIONS)
def test_h_transport_options_are_imposed(app: Celery, settings: Settings, hazard: str) -> None:
    """The same for what the transport is told."""
    name, theirs, ours = OPTIONS[hazard]
    assert getattr(kombu_redis.Channel, name) == theirs
    options = app.conf.broker_transport_options
    assert (options[name], imposed.changed(app, settings)) == (ours, [])
    app.conf.broker_transport_options = {**options, name: theirs}
    assert f"broker_transport_options[{name!r}] is {theirs!r}" in imposed.complaint(app, settings)


def test_h23_a_worker_that_is_told_to_stop_at_once_waits_for_its_activities(app: Celery) -> None:
    """Celery 5.7 by itself ends the children in that moment."""
    assert Celery(set_as_current=False).conf.worker_soft_shutdown_timeout == 0
    assert app.conf.worker_soft_shutdown_timeout == 30
