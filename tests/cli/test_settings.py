"""Settings: where each value comes from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from celeriac.celery_app import embedded
from celeriac.celery_app.redis_urls import masked_url
from celeriac.celery_app.settings import DEFAULT_REDIS_URL, Settings
from celeriac.orchestrations.errors import InvalidArgumentError


def test_defaults_where_nothing_is_set(tmp_path: Path) -> None:
    settings = Settings.load({}, tmp_path)
    assert settings == Settings()
    assert settings.redis_url == DEFAULT_REDIS_URL


def test_each_source_wins_over_the_next(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.celeriac]\nhub = "file"\nredis-url = "redis://file/1"\napp = "a.b"\nqueue = "q"\nlease = 20\n'
    )
    deep = tmp_path / "src" / "deep"
    deep.mkdir(parents=True)
    environ = {
        "CELERIAC_HUB": "env",
        "CELERIAC_APP": " m.one, m.two ",
        "CELERIAC_WINDOW": "7",
        "CELERIAC_QUEUE": "",
    }
    settings = Settings.load(environ, deep, hub="option", redis_url=None)
    assert settings.hub == "option"
    assert settings.redis_url == "redis://file/1"
    assert settings.apps == ("m.one", "m.two")
    assert settings.queue == "q", "an empty variable counts as not set"
    assert (settings.window, settings.lease) == (7, 20.0)
    assert settings.app_folder == str(tmp_path), "modules are found from a folder below, too"


def test_the_nearest_pyproject_is_the_one(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.celeriac]\nhub = "above"\n')
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert Settings.load({}, inner).hub == "celeriac"


def test_a_child_process_gets_the_same_settings(tmp_path: Path) -> None:
    settings = Settings(
        redis_url="unix:///a/b.sock?db=3", hub="h", apps=("a.b", "c"), lease=5.5, transport="stock"
    )
    assert Settings.load(settings.environment(), tmp_path) == settings


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("CELERIAC_REDIS_URL", "localhost:6379", "must start with redis://"),
        ("CELERIAC_REDIS_URL", "http://h", "must start with redis://"),
        ("CELERIAC_REDIS_URL", "redis://h:port/0", "not a Redis URL"),
        ("CELERIAC_REDIS_URL", "redis://h/one", "the database must be a number, not 'one'"),
        ("CELERIAC_REDIS_URL", "redis:///0", "names no host"),
        ("CELERIAC_REDIS_URL", "unix://", "names no socket"),
        ("CELERIAC_REDIS_URL", "rediss://h?ssl_cert_reqs=none", "unchecked certificate"),
        ("CELERIAC_HUB", "a b", "only letters"),
        ("CELERIAC_HUB", "x" * 65, "1 to 64"),
        ("CELERIAC_APP", "my/workflows.py", "write the module's name, not its file"),
        ("CELERIAC_LEASE", "soon", "number of seconds"),
        ("CELERIAC_LEASE", "nan", "number of seconds"),
        ("CELERIAC_WINDOW", "1.5", "whole number"),
        ("CELERIAC_MAX_PAYLOAD", "8MB", "whole number"),
        ("CELERIAC_TRANSPORT", "amqp", "one of celeriac, stock"),
    ],
)
def test_a_bad_variable_is_named(tmp_path: Path, variable: str, value: str, says: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Settings.load({variable: value}, tmp_path)
    assert variable in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[tool.celeriac]\nhup = 'x'", "has no setting 'hup'; there are redis_url, hub, app"),
        ("[tool.celeriac]\nwindow = 'many'", "[tool.celeriac] window is 'many'"),
        ("[tool.celeriac]\nwindow = true", "whole number"),
        ("[tool]\nceleriac = 1", "must be a table"),
        ("[tool.celeriac", "cannot be read"),
    ],
)
def test_a_bad_pyproject_is_named(tmp_path: Path, toml: str, says: str) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(toml)
    with pytest.raises(InvalidArgumentError) as caught:
        Settings.load({}, tmp_path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_a_lease_shorter_than_two_beats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="at least twice the beat"):
        Settings.load({"CELERIAC_LEASE": "3"}, tmp_path)


def test_no_password_is_ever_shown(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Settings.load({"CELERIAC_REDIS_URL": "redis://me:s3cret@h/x"}, tmp_path)
    assert "s3cret" not in str(caught.value)
    assert masked_url("redis://me:s3cret@h:1/2") == "redis://me:***@h:1/2"
    assert masked_url("redis://:s3cret@h") == "redis://:***@h"
    assert masked_url("rediss://h?password=s3cret&db=1") == "rediss://h?password=***&db=1"
    assert masked_url("unix:///run/r.sock?db=1") == "unix:///run/r.sock?db=1"


@pytest.mark.parametrize(
    ("url", "broker", "backend"),
    [
        ("redis://h:1/2", "redis://h:1/2", "redis://h:1/2"),
        ("redis://u:p@h", "redis://u:p@h/0", "redis://u:p@h/0"),
        ("redis://h?db=4", "redis://h/4", "redis://h/4"),
        ("rediss://h/1", "rediss://h/1?ssl_cert_reqs=required", "rediss://h/1?ssl_cert_reqs=required"),
        (
            "unix:///a/b.sock?db=3",
            "redis+socket:///a/b.sock?virtual_host=3",
            "socket:///a/b.sock?virtual_host=3",
        ),
        (
            "unix://:p@/b.sock",
            "redis+socket://:p@/b.sock?virtual_host=0",
            "socket://:p@/b.sock?virtual_host=0",
        ),
        (
            "unix://u:p@/b.sock",
            "redis+socket://u:p@/b.sock?virtual_host=0",
            "socket://u:p@/b.sock?virtual_host=0",
        ),
    ],
)
def test_the_url_in_celerys_spelling(url: str, broker: str, backend: str) -> None:
    settings = Settings(redis_url=url)
    assert (settings.celery_broker_url, settings.celery_result_backend_url) == (broker, backend)


def test_the_dev_redis_of_the_folder_is_found_only_while_it_lives(tmp_path: Path) -> None:
    (tmp_path / ".celeriac").mkdir()
    note = tmp_path / ".celeriac" / "dev.json"
    below = tmp_path / "src"
    below.mkdir()
    with embedded.start(tmp_path / "r") as redis:
        embedded.write_dev_record(
            note,
            {
                "redis_url": redis.url,
                "hub": "other",
                "apps": ["flows"],
                "app_folder": str(tmp_path),
                "pid": 1,
            },
        )
        assert json.loads(note.read_text())["redis_url"] == redis.url
        assert Settings.load({}, tmp_path).redis_url == redis.url
        assert Settings.load({}, below).redis_url == redis.url
        found = Settings.load({}, below)
        assert (found.hub, found.apps, found.app_folder) == ("other", ("flows",), str(tmp_path))
        assert Settings.load({"CELERIAC_HUB": "mine"}, below, apps=["own"]).apps == ("own",)
        assert Settings.load({"CELERIAC_HUB": "mine"}, below).hub == "mine"
        assert Settings.load({}, below, beside_dev=False) == Settings()
        elsewhere = Settings.load({"CELERIAC_REDIS_URL": "redis://h"}, tmp_path)
        assert elsewhere == Settings(redis_url="redis://h"), "nothing of another Redis"
    assert Settings.load({}, tmp_path).redis_url == DEFAULT_REDIS_URL
    note.write_text("not json")
    assert Settings.load({}, tmp_path).redis_url == DEFAULT_REDIS_URL
