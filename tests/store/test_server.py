"""Which servers are refused, of which we warn, and the schema number."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.celery_app.store import server
from celeriac.orchestrations.errors import RedisUnsuitableError


def test_the_servers_of_these_tests_are_fit(desk: Any) -> None:
    info = desk.store.run(server.info())
    assert server.ensure_suitable(server.check_server(info)) == []
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
    with pytest.raises(RedisUnsuitableError, match=word):
        server.ensure_suitable(findings)


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


def test_a_newer_schema_is_refused(desk: Any) -> None:
    assert desk.store.run(server.note_schema(desk.keys)) == 0
    assert desk.store.run(server.note_schema(desk.keys)) == server.SCHEMA
    desk.store.client.set(desk.keys.schema, server.SCHEMA + 1)
    with pytest.raises(RedisUnsuitableError, match="newer Celeriac"):
        desk.store.run(server.note_schema(desk.keys))
