"""`celeriac doctor` on real Redis servers, each configured in the way that a check is about."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from spoken import COMMAND, PATIENCE, clean_environment, until

from celeriac.celery_app.client.progress import ProcessInfo
from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.doctor import Report, processes
from celeriac.celery_app.doctor import redis as looks
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store, flights, server
from celeriac.cli.exits import Exit

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def settings(url: str, hub: str) -> Settings:
    return Settings(redis_url=url, hub=hub)


@pytest.fixture
def desk(settings: Settings) -> Iterator[Store]:
    """A store on an empty server."""
    with Store.connect(settings) as store:
        store.client.flushall()
        yield store
        store.client.flushall()


def neighbours(settings: Settings, store: Store) -> dict[str, tuple[str, str]]:
    report = Report()
    looks.check_neighbours(report, settings, store, store.run(server.info()), ["jobs"])
    return {check.name: (check.level, check.text) for check in report.checks}


def test_alone_on_its_redis(settings: Settings, desk: Store) -> None:
    desk.client.rpush("jobs-poison", "x")
    desk.client.rpush(settings.queue_key("jobs") + "\x06\x163", "x")
    desk.client.set(desk.keys.schema, 1)
    desk.client.sadd("_kombu.binding.jobs", "x")
    desk.client.sadd("_kombu.binding_permanent.jobs", "x")
    found = neighbours(settings, desk)
    assert found["neighbours"][0] == found["limit"][0] == "ok", found


def test_another_celery_application_is_noticed_by_any_of_its_queues(settings: Settings, desk: Store) -> None:
    desk.client.sadd("_kombu.binding.mails", "x")
    level, text = neighbours(settings, desk)["neighbours"]
    assert level == "warn"
    assert "'mails'" in text


def test_no_memory_limit_beside_other_keys_and_databases(settings: Settings, desk: Store) -> None:
    desk.client.set("session:1", "x")
    level, text = neighbours(settings, desk)["limit"]
    assert (level, "'session:1'" in text) == ("warn", True)
    desk.client.delete("session:1")
    desk.client.rpush("orders", "{}")  # to a queue trigger that is yet to be deployed
    assert neighbours(settings, desk)["limit"][0] == "ok"
    desk.client.delete("orders")
    other = Store.connect(replace(settings, redis_url=settings.redis_url.replace("db=0", "db=3")))
    other.client.set("x", "y")
    level, text = neighbours(settings, desk)["limit"]
    assert level == "warn"
    assert "database 3" in text
    assert "clients of other databases" in text
    other.close()
    desk.client.config_set("maxmemory", "100mb")
    try:
        assert "limit" not in neighbours(settings, desk)
    finally:
        desk.client.config_set("maxmemory", "0")


def beat(store: Store, name: str, **info: Any) -> None:
    store.run(flights.beat(store.keys, name, 60_000, info=json.dumps(info), join=True))


def doctor(settings: Settings, folder: Path, *modules: str, **more: str) -> tuple[int, dict[str, Any]]:
    environ = clean_environment() | settings.environment() | {"CELERIAC_APP": ",".join(modules)} | more
    ran = subprocess.run(
        [*COMMAND, "doctor", "--json"], cwd=folder, env=environ, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    report = json.loads(ran.stdout or "{}")
    assert report, ran.stderr
    return ran.returncode, {check["name"]: check for check in report["checks"]}


def test_processes_that_name_the_lists_differently(settings: Settings, desk: Store, tmp_path: Path) -> None:
    lists = {"queue": "celeriac", "prefix": "p", "separator": "s", "priority_steps": [0, 3, 6, 9]}
    beat(desk, "o1", kind="orchestrator", pid=1, lists=lists)
    beat(desk, "w1", kind="worker", pid=2, queues=["celeriac"], lists=lists)
    code, checks = doctor(settings, tmp_path)
    assert (code, checks["agreement"]["level"]) == (0, "ok")
    beat(desk, "w2", kind="worker", pid=3, queues=["celeriac"], lists={**lists, "priority_steps": [0, 9]})
    code, checks = doctor(settings, tmp_path)
    assert (code, checks["agreement"]["level"]) == (0, "warn")
    assert "[0, 9]: worker 3" in checks["agreement"]["text"]


def test_messages_that_no_worker_takes(settings: Settings, desk: Store) -> None:
    desk.client.rpush(settings.queue_key(), "m")
    report = Report()
    now = datetime.now(UTC)
    info = [ProcessInfo(incarnation="w1", kind="worker", lapses_at=now, info={"queues": ["gpu"]})]
    processes.check_queues(report, settings, desk, info, [0, 3, 6, 9])
    (check,) = report.checks
    assert (check.level, "1 messages wait in queue 'celeriac'" in check.text) == ("warn", True)


def test_real_processes_say_how_they_name_the_lists(settings: Settings, desk: Store, tmp_path: Path) -> None:
    """An orchestrator whose module changed the priority steps writes what this worker never looks at."""
    (tmp_path / "plain.py").write_text(
        "from celeriac.activities import activity\n@activity\ndef one(): return 1\n"
    )
    (tmp_path / "stepping.py").write_text(
        "import plain\nfrom celeriac.celery_app import app\n"
        "was = app.conf.broker_transport_options\n"
        "app.conf.broker_transport_options = {**was, 'priority_steps': [0, 5]}\n"
    )
    environ = clean_environment() | settings.environment()
    started = []
    try:
        for command, module in (("orchestrator", "stepping"), ("worker", "plain")):
            arguments = ["--pool", "solo"] if command == "worker" else []
            with open(os.devnull, "w") as nowhere:
                started.append(
                    subprocess.Popen(
                        [*COMMAND, command, *arguments, "--app", module],
                        cwd=tmp_path, env=environ, stdout=nowhere, stderr=nowhere,
                    )
                )  # fmt: skip
        until(lambda: desk.client.hlen(desk.keys.procs) == 2)
        code, checks = doctor(settings, tmp_path, "plain")
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(PATIENCE)
    assert code == 0
    assert "disagree on priority_steps" in checks["agreement"]["text"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("app.conf.accept_content = ['json', 'pickle']", "accept_content is ['json', 'pickle']"),
        ("import ssl; app.conf.broker_use_ssl = {'ssl_cert_reqs': ssl.CERT_NONE}", "broker_use_ssl leaves"),
        ("app.conf.redis_backend_use_ssl = {'ssl_cert_reqs': 'none'}", "redis_backend_use_ssl leaves"),
    ],
)
def test_what_modules_did_to_the_configuration_is_refused_by_all(
    settings: Settings, desk: Store, tmp_path: Path, change: str, says: str
) -> None:
    (tmp_path / "meddling.py").write_text(f"from celeriac.celery_app import app\n{change}\nprint('hello')\n")
    code, checks = doctor(settings, tmp_path, "meddling")
    assert (code, checks["configuration"]["level"]) == (Exit.FAILED, "refuse")
    assert says in checks["configuration"]["text"]
    for command in ("orchestrator", "worker"):
        ran = subprocess.run(
            [*COMMAND, command, "--app", "meddling"], cwd=tmp_path, capture_output=True, text=True,
            env=clean_environment() | settings.environment() | {"CELERIAC_APP": ""},
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert ran.returncode == Exit.USAGE
        assert says in ran.stderr
        assert "Traceback" not in ran.stderr


def test_a_module_that_cannot_be_imported(settings: Settings, desk: Store, tmp_path: Path) -> None:
    code, checks = doctor(settings, tmp_path, "no_such_module")
    assert (code, checks["modules"]["level"]) == (Exit.FAILED, "refuse")
    assert checks["server"]["level"] == "ok", "the rest is looked at all the same"


def test_an_activity_longer_than_the_visibility_timeout(
    settings: Settings, desk: Store, tmp_path: Path
) -> None:
    (tmp_path / "long.py").write_text(
        "from datetime import timedelta\nfrom celeriac.activities import activity\n"
        "@activity(timeout=timedelta(days=2))\ndef render(): return 1\n"
    )
    assert "visibility" not in doctor(settings, tmp_path, "long")[1]
    code, checks = doctor(settings, tmp_path, "long", CELERIAC_TRANSPORT="stock")
    assert (code, checks["visibility"]["level"]) == (0, "warn")
    assert "'render' may take 172800 s" in checks["visibility"]["text"]


def test_doctor(cli: Cli, url: str, hub: str) -> None:
    code, out, _ = cli("doctor")
    assert code == 0
    assert "noeviction" in out
    code, out, _ = cli("doctor", "--json")
    report = json.loads(out)
    assert report["ok"]
    assert report["facts"]["Settings"]["redis"] == url
    levels = {check["name"]: check["level"] for check in report["checks"]}
    assert levels["processes"] == "warn"
    assert levels["server"] == levels["access"] == levels["configuration"] == "ok"
    assert "celeriac.cli" in report["facts"]["Imported from"]


def test_doctor_refuses_a_redis_that_evicts(cli: Cli, url: str, hub: str) -> None:
    with Client(url, hub) as client:
        redis = client._store.client  # the test changes the server itself
        redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            found, out, _ = cli("doctor")
            for argv in (["list"], ["orchestrator"], ["worker"]):
                code, _, err = cli(*argv)
                assert code == Exit.BAD_REDIS, argv
        finally:
            redis.config_set("maxmemory-policy", "noeviction")
    assert found == Exit.BAD_REDIS
    assert "maxmemory-policy is allkeys-lru" in out
    assert f"Redis at {url} must not be used" in err
    assert "celeriac.cli" in out, "what else there is to say is said as well"


def test_doctor_refuses_an_open_redis_and_survives_one_that_is_not_there(cli: Cli) -> None:
    code, out, _ = cli("doctor", "--redis", "redis://127.0.0.1:1/0", "--json")
    assert code == Exit.NO_REDIS
    assert not json.loads(out)["ok"]
    code, out, _ = cli("doctor", "--redis", "redis://redis.invalid:6379/0", "--json")
    levels = {check["name"]: check["level"] for check in json.loads(out)["checks"]}
    assert levels["access"] == "refuse"
