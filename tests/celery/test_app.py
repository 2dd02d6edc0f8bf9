"""The Celery app: where it is found, what it imposes, and what it says when a user's module is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celeriac.activities import ActivityRegistry, activity
from celeriac.celery_app.activity_worker import imposed
from celeriac.celery_app.app import create_app, load_apps, worker_queues
from celeriac.celery_app.emission import Emitter
from celeriac.celery_app.settings import Settings
from celeriac.orchestrations.errors import InvalidArgumentError
from celeriac.orchestrations.history import ActivityOptions


def registry() -> ActivityRegistry:
    made = ActivityRegistry()

    @activity(registry=made)
    def one() -> int:
        return 1

    @activity(registry=made, queue="mail", name="mail.send")
    def two() -> int:
        return 2

    return made


def test_activities_are_tasks_of_the_same_name_with_late_ack_on_the_class() -> None:
    app = create_app(Settings(), registry=registry(), load=False)
    task: Any = app.tasks["mail.send"]
    assert type(task).acks_late is True
    assert task.ignore_result is True
    assert "one" in app.tasks


def test_a_worker_serves_the_default_queue_and_those_that_activities_name() -> None:
    app = create_app(Settings(queue="work"), registry=registry(), load=False)
    assert worker_queues(app) == ("work", "mail")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_acks_late", False),
        ("worker_prefetch_multiplier", 4),
        ("accept_content", ["json", "pickle"]),
        ("task_reject_on_worker_lost", True),
        ("task_compression", "zlib"),
        ("broker_url", "redis://elsewhere:1/0"),
        ("result_backend", "redis://elsewhere:1/0"),
        ("task_default_queue", "elsewhere"),
        ("worker_consumer", "celery.worker.consumer:Consumer"),
    ],
)
def test_a_changed_setting_is_named(name: str, value: Any) -> None:
    settings = Settings(redis_url="redis://:s3cret@localhost:1/0")
    app = create_app(settings, registry=ActivityRegistry(), load=False)
    assert imposed.changed(app, settings) == []
    app.conf[name] = value
    (problem,) = imposed.changed(app, settings)
    assert problem.startswith(name)
    assert "s3cret" not in problem


@pytest.mark.parametrize("name", sorted(imposed.asserted(Settings())))
def test_every_imposed_setting_is_known_to_celery(name: str) -> None:
    from celery.app.defaults import NAMESPACES, flatten

    assert name in {key for key, _ in flatten(NAMESPACES)}


@pytest.mark.parametrize("transport", ["celeriac", "stock"])
def test_every_changed_transport_option_is_named(transport: str) -> None:
    settings = Settings(hub="north", transport=transport)
    app = create_app(settings, registry=ActivityRegistry(), load=False)
    needed = dict(app.conf.broker_transport_options)
    assert {"global_keyprefix", "visibility_timeout"} <= set(needed)
    assert ({"hub", "lease", "beat"} <= set(needed)) == (transport == "celeriac")
    for name in needed:
        app.conf.broker_transport_options = {**needed, name: 0.5}
        (problem,) = imposed.changed(app, settings)
        assert problem.startswith(f"broker_transport_options['{name}'] is 0.5, and must be ")
    app.conf.broker_transport_options = {"max_connections": 5}
    assert len(imposed.changed(app, settings)) == len(needed)
    assert all("is missing" in problem for problem in imposed.changed(app, settings))
    longer = needed["visibility_timeout"] + 1
    app.conf.broker_transport_options = {**needed, "max_connections": 5, "visibility_timeout": longer}
    assert imposed.changed(app, settings) == []


@pytest.mark.parametrize("transport", ["celeriac", "stock"])
@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("redis://u:p@h:7000/3", "3"),
        ("rediss://h:7000/3", "3"),
        ("unix:///tmp/r.sock?db=2", "virtual_host=2"),
        ("unix://:pw@/tmp/r.sock", "virtual_host=0"),
    ],
)
def test_the_broker_is_reached_by_the_chosen_transport(transport: str, url: str, database: str) -> None:
    app = create_app(Settings(redis_url=url, transport=transport), registry=ActivityRegistry(), load=False)
    connection = app.connection()
    wanted = "celeriac.celery_app.transport.redis" if transport == "celeriac" else "kombu.transport.redis"
    assert connection.get_transport_cls().__module__ == wanted
    if url.startswith("unix"):
        assert connection.hostname.endswith(f"/tmp/r.sock?{database}")
    else:
        assert connection.virtual_host.strip("/") == database
    assert bool(connection.ssl) == url.startswith("rediss")


def run(folder: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "CELERIAC_REDIS_URL": "redis://127.0.0.1:1/0", **variables}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_app_of_the_package_is_the_celery_app_also_after_its_submodule_was_imported(
    tmp_path: Path,
) -> None:
    code = (
        "import celeriac.celery_app.app, celery; from celeriac.celery_app import app; "
        "assert isinstance(app, celery.Celery), app; from celery.app.utils import find_app; "
        "assert find_app('celeriac.celery_app') is app; "
        "import celeriac.celery_app as p; assert p.app is app; print(1)"
    )
    assert run(tmp_path, code).stdout == "1\n"


def test_a_user_module_may_import_the_app_that_is_just_being_made(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from celeriac.celery_app import app\nfrom celeriac.activities import activity\n"
        "@app.task(name='plain', queue='own')\ndef plain(): ...\n@activity\ndef act(): ...\n"
    )
    code = "from celeriac.celery_app import app; print('plain' in app.tasks, 'act' in app.tasks)"
    assert run(tmp_path, code, CELERIAC_APP="mine").stdout == "True True\n"


def test_importing_the_package_imports_no_celery(tmp_path: Path) -> None:
    assert (
        run(tmp_path, "import celeriac.celery_app, sys; print('celery' in sys.modules)").stdout == "False\n"
    )


def test_queues_that_a_user_declares_for_plain_tasks_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from kombu import Queue\nfrom celeriac.celery_app import app\n"
        "from celeriac.activities import activity\n"
        "app.conf.task_queues = [Queue('own', routing_key='own.key')]\n"
        "@activity(queue='mail')\ndef act(): ...\n"
    )
    code = (
        "from celeriac.celery_app import app; q = app.amqp.queues; "
        "print(sorted(q.consume_from), q['own'].routing_key)"
    )
    assert run(tmp_path, code, CELERIAC_APP="mine").stdout == "['celeriac', 'mail', 'own'] own.key\n"


def test_a_missing_module_is_named_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(InvalidArgumentError, match=r"no module 'nowhere.flows'.*" + str(tmp_path)):
        load_apps(["nowhere.flows"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("import does_not_exist_either", "No module named 'does_not_exist_either'"),
        ("1/0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(2)", "SystemExit"),
    ],
)
def test_a_module_that_fails_to_import_shows_its_own_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, shown: str
) -> None:
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(InvalidArgumentError, match="cannot be imported") as caught:
        load_apps([name])
    assert shown in str(caught.value)
    assert f"{name}.py" in str(caught.value)
    assert "importlib" not in str(caught.value)


def test_two_hubs_in_one_redis_share_no_queue() -> None:
    """A worker drops what is not open in its own hub, so it must never see another hub's messages."""
    keys = {}
    for hub in ("celeriac", "north", "south"):
        settings = Settings(hub=hub)
        emitter = Emitter(create_app(settings, registry=registry(), load=False), settings)
        keys[hub], _ = emitter.activity_message("one", "e1:1:1:i", "e1:1:1", "[[],{}]", ActivityOptions(), 0)
        assert keys[hub] == settings.queue_key()
    assert keys == {
        "celeriac": "celeriac",
        "north": "north:queue:celeriac",
        "south": "south:queue:celeriac",
    }
