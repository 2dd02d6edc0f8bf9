"""Which servers are refused, of which we warn, and the schema number."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.store import server
from celeriac.orchestrations.errors import RedisUnsuitableError

URL = "redis://me:s3cret@redis.example:6379/0"


def test_the_servers_of_these_tests_are_fit(desk: Any) -> None:
    info = desk.store.run(server.info())
    assert server.ensure_suitable(server.check_server(info), URL) == []
    assert server.check_server(dict(desk.store.client.info())) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"redis_version": "6.0.16"}, "6.2"),
        ({"redis_version": "5.0"}, "too old"),
        ({"role": "slave"}, "master"),
        ({"cluster_enabled": 1}, "cluster"),
        ({"maxmemory_policy": "allkeys-lru"}, "noeviction"),
    ],
)
def test_an_unfit_server_is_refused_and_says_what_to_do(desk: Any, change: dict[str, Any], word: str) -> None:
    info = desk.store.run(server.info()) | change
    findings = server.check_server(info)
    assert findings[0].level == "refuse"
    with pytest.raises(RedisUnsuitableError, match=word) as caught:
        server.ensure_suitable(findings, URL)
    assert str(caught.value).startswith("Redis at redis://me:***@redis.example:6379/0 must not be used: ")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"aof_enabled": 0}, "durability"),
        ({"aof_last_write_status": "err"}, "aof"),
        ({"rdb_last_bgsave_status": "err"}, "snapshot"),
        ({"maxmemory": 100, "used_memory": 95}, "memory"),
        ({"loading": 1}, "loading"),
    ],
)
def test_a_doubtful_server_is_warned_of(desk: Any, change: dict[str, Any], name: str) -> None:
    info = desk.store.run(server.info()) | change
    assert [(f.level, f.name) for f in server.check_server(info)] == [("warn", name)]


@pytest.mark.parametrize(
    ("version", "faults", "remedy"),
    [
        ("6.2.14", ["CVE-2024-31228", "CVE-2025-49844"], "6.2.20"),
        ("6.2.16", ["CVE-2025-49844"], "6.2.20"),
        ("6.2.20", [], ""),
        ("7.0.15", ["CVE-2024-31228", "CVE-2025-49844"], "7.2.11"),
        ("7.2.5", ["CVE-2024-31228", "CVE-2025-49844", "CVE-2026-23479"], "7.2.14"),
        ("7.2.13", ["CVE-2026-23479"], "7.2.14"),
        ("7.2.14", [], ""),
        ("7.4.6", ["CVE-2026-23479"], "7.4.9"),
        ("8.0.6", ["CVE-2026-23479"], "8.2.6"),
        ("8.2.1", ["CVE-2025-49844", "CVE-2026-23479"], "8.2.6"),
        ("8.4.3", [], ""),
        ("8.6.2", ["CVE-2026-23479"], "8.6.3"),
        ("8.6.3", [], ""),
        ("8.8.0", [], ""),
        ("9.0.0", [], ""),
    ],
)
def test_known_security_faults(desk: Any, version: str, faults: list[str], remedy: str) -> None:
    info = desk.store.run(server.info()) | {"redis_version": version, "tcp_port": 6379}
    found = [f.text for f in server.check_server(info) if f.name == "release"]
    assert len(found) == bool(faults)
    for text in found:
        assert f"({', '.join(faults)})" in text
        assert text.endswith(f"{remedy} has none of them")
    assert not [f for f in server.check_server(info | {"tcp_port": 0}) if f.name == "release"]
    assert not [f for f in server.check_server(info | {"server_name": "valkey"}) if f.name == "release"]


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("unix:///tmp/redis.sock", ""),
        ("redis://127.0.0.1:6379/0", ""),
        ("redis://localhost", ""),
        ("redis://[::1]", ""),
        ("redis://redis", "refuse"),
        ("rediss://redis", "refuse"),
        ("redis://10.0.0.1?password=x", "warn"),
        ("redis://:x@redis", "warn"),
        ("rediss://:x@redis", ""),
        ("rediss://redis?ssl_certfile=/c&ssl_keyfile=/k", ""),
        ("rediss://:x@redis?ssl_check_hostname=false", "warn"),
    ],
)
def test_who_else_can_reach_it(url: str, level: str) -> None:
    finding = server.check_access(url)
    assert (finding.level if finding else "") == level


def test_a_newer_schema_is_refused(desk: Any) -> None:
    assert desk.store.run(server.note_schema(desk.keys)) == 0
    assert desk.store.run(server.note_schema(desk.keys)) == server.SCHEMA
    desk.store.client.set(desk.keys.schema, server.SCHEMA + 1)
    with pytest.raises(RedisUnsuitableError, match="newer Celeriac"):
        desk.store.run(server.note_schema(desk.keys))
