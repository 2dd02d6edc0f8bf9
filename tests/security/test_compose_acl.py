"""docker-compose.acl.yml over docker-compose.yml: every service works as its own user, refused nothing.

No Docker engine: the server is a redis-server with the very command line of the file, and the services are
our processes with their commands and variables, the service's name and port replaced by a local one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from guarded import Guarded, GuardedSite, Serve

ROOT = Path(__file__).parents[2]
BASE, OVER = (
    yaml.safe_load((ROOT / name).read_text()) for name in ("docker-compose.yml", "docker-compose.acl.yml")
)
QUEUE = {"FLOWS_QUEUE": "celeriac.orders"}  # a trigger queue that the file knows without a change
ACL_IN_CONTAINER = "/etc/redis/celeriac.acl"


def merged(name: str) -> dict[str, Any]:
    """A service as Compose merges two files: mappings by key, volumes added, everything else replaced."""
    base, over = BASE["services"][name], OVER["services"][name]
    result = base | over
    for part in ("environment", "healthcheck"):
        result[part] = base.get(part, {}) | over.get(part, {})
    result["volumes"] = [*base.get("volumes", []), *over.get("volumes", [])]
    return result


def substituted(text: str) -> str:
    """What Compose makes of a text when none of its variables is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")


@pytest.fixture
def guarded(serve: Serve) -> Guarded:
    """The server of the file, with the ACL file that it mounts."""
    service = merged("redis")
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    (mounted,) = [host for host, inside in mounts.items() if inside == ACL_IN_CONTAINER]
    _, *words = [substituted(word) for word in service["command"]]
    words = [str(ROOT / mounted) if word == ACL_IN_CONTAINER else word for word in words]
    return serve(*words, username="admin", password="change-admin")


def local(name: str, port: int) -> dict[str, str]:
    """A service's variables, as they are for a process of this machine."""
    given = {key: substituted(value) for key, value in merged(name)["environment"].items()}
    return {key: value.replace("@redis:6379/", f"@127.0.0.1:{port}/") for key, value in given.items()}


@pytest.fixture
def site(guarded: Guarded, tmp_path: Path) -> Iterator[GuardedSite]:
    urls = {
        name: local(name, guarded.port)["CELERIAC_REDIS_URL"] for name in ("orchestrator", "worker", "cli")
    }
    urls |= {"client": urls["cli"], "admin": f"redis://admin:change-admin@127.0.0.1:{guarded.port}/0"}
    made = GuardedSite(tmp_path, urls)
    try:
        yield made
    finally:
        made.close()


def healthy(name: str, port: int) -> subprocess.CompletedProcess[str]:
    """A service's health check, with our command in the path."""
    kind, *words = merged(name)["healthcheck"]["test"]
    known = os.environ | local(name, port) | {"CELERIAC_APP": "flows_of_security"}
    known["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{known['PATH']}"
    known["PYTHONPATH"] = str(Path(__file__).parent)
    assert kind == "CMD-SHELL"
    command = ["/bin/sh", "-c", substituted(words[0])]
    return subprocess.run(command, env=known, capture_output=True, text=True, timeout=60, check=False)


def test_every_service_works_as_its_own_user(guarded: Guarded, site: GuardedSite) -> None:
    roles = {name: local(name, 1)["CELERIAC_REDIS_URL"] for name in ("orchestrator", "worker", "cli")}
    assert {name: re.split("[/:]+", url)[1] for name, url in roles.items()} == {
        "orchestrator": "orchestrator", "worker": "worker", "cli": "client",
    }  # fmt: skip
    for kind, name in (("o", "orchestrator"), ("w", "worker")):
        site._joined(kind, lambda name=name: site.start(*merged(name)["command"], **QUEUE))
    instance = json.loads(site.cli("start", "mixture", "-i", '"a"', "--json", who="cli"))["instanceId"]
    site.until(lambda: site.client.get(instance).custom_status == {"at": "start"})
    site.cli("raise-event", instance, "go", "-i", "1", who="cli")
    assert site.wait(instance).output == [380, "a", 1, 200_000, 42]
    assert instance in site.cli(*merged("cli")["command"], who="cli")
    for name in ("orchestrator", "worker"):
        found = healthy(name, guarded.port)
        assert found.returncode == 0, found.stdout + found.stderr
        assert json.loads(found.stdout)["ok"]
    users = {entry["user"] for entry in guarded.client.client_list()}
    assert {"orchestrator", "worker", "client"} <= users
    # redis-py names itself, which no file can allow on every release; doctor may ask for more.
    refused = [(e["username"], e["object"]) for e in guarded.client.acl_log() if e["username"] != "monitor"]
    assert [one for one in refused if one[1] not in ("client", "client|setinfo")] == []


def test_the_file_of_users_is_the_only_way_in(guarded: Guarded) -> None:
    logins: list[dict[str, Any]] = [
        {},
        {"password": "celeriac"},
        {"username": "worker", "password": "change-client"},
    ]
    for login in logins:
        with redis.Redis(port=guarded.port, **login) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    words = merged("redis")["healthcheck"]["test"]
    assert words == ["CMD", "redis-cli", "--user", "monitor", "ping"]
    password = substituted(merged("redis")["environment"]["REDISCLI_AUTH"])
    with redis.Redis(port=guarded.port, username=words[3], password=password) as client:
        assert client.ping()


def test_all_else_is_as_in_the_file_below_it() -> None:
    base, over = BASE["services"]["redis"]["command"], OVER["services"]["redis"]["command"]
    assert over[: over.index("--aclfile")] == base[: base.index("--requirepass")]
    assert set(OVER["services"]) == set(BASE["services"])
    ours = {key for service in OVER["services"].values() for key in service}
    assert ours == {"command", "environment", "healthcheck", "volumes"}
