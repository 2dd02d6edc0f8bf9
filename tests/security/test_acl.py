"""`celeriac.acl`: each kind of process has a user of its own in Redis, who may do what it needs and no more.

Everything runs as those users on a Redis that has this very file; Redis' own list of refusals (ACL LOG)
stays empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from guarded import BINARIES, Guarded, GuardedSite, Serve
from redis.exceptions import NoPermissionError

from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.store.keys import KEYS, Keys

ROOT = Path(__file__).parents[2]
ACL, LUA = ROOT / "celeriac.acl", ROOT / "celery_app" / "store" / "lua"
USERS = ("client", "orchestrator", "worker", "monitor")
ORDERS = " ~orders ~orders-poison"  # as docs/how-to/security.md says for a trigger queue


@pytest.fixture(params=list(BINARIES))
def guarded(serve: Serve, tmp_path: Path, request: pytest.FixtureRequest) -> Guarded:
    """A Redis with the file, and the trigger queue added to those who use it."""
    text = ACL.read_text()
    for user in ("client", "orchestrator", "monitor"):
        text = text.replace(f">change-{user} resetkeys", f">change-{user} resetkeys{ORDERS}")
    path = tmp_path / "users.acl"
    path.write_text(text)
    return serve("--aclfile", str(path), binary=request.param, username="admin", password="change-admin")


@pytest.fixture
def site(guarded: Guarded, tmp_path: Path) -> Iterator[GuardedSite]:
    names = ("admin", *USERS)
    urls = {name: f"redis://{name}:change-{name}@127.0.0.1:{guarded.port}/0" for name in names}
    urls["doctor"] = urls["workers"] = urls["list"] = urls["monitor"]
    made = GuardedSite(tmp_path, urls)
    try:
        yield made
    finally:
        made.close()


SCRIPTS = {
    "client": "start raise_event control terminate purge restart progress get list processes note_schema "
    "redrive",
    "worker": "take ack give_back adopt park publish promote beat sweep_flights set_aside complete retry arm "
    "note_served note_schema",
    "monitor": "progress get list processes",
}


def pieces(name: str) -> dict[str, str]:
    """A script and all that it includes, by name."""
    text = (LUA / f"{name}.lua").read_text()
    found = {name: text}
    for names in re.findall(r"^-- include: *(.*)$", text, re.MULTILINE):
        for other in names.split():
            found |= pieces(other)
    return found


def user_line(user: str) -> list[str]:
    (line,) = [line for line in ACL.read_text().splitlines() if line.startswith(f"user {user} ")]
    return line.split()


@pytest.mark.parametrize("user", ["client", "orchestrator", "worker", "monitor"])
def test_each_user_may_do_what_is_in_its_scripts(user: str) -> None:
    sources = [path.read_text() for path in (ROOT / "celery_app").rglob("*.py")]
    every = {name for text in sources for name in re.findall(r'script\(\s*"(\w+)"', text)}
    words, keys = user_line(user), Keys()
    scripts = SCRIPTS[user].split() if user in SCRIPTS else sorted(every - {"publish", "set_aside"})
    patterns = [word[1:] for word in words if word.startswith("~")]
    for name in scripts:
        for piece, text in pieces(name).items():
            wanted = {f"+{word.lower()}" for word in re.findall(r"redis\.p?call\('(\w+)'", text)}
            assert not wanted.difference(words), f"{user} runs {name}.lua, and {piece}.lua needs this"
            for line in re.findall(r"^-- keys: *(.*)$", text, re.MULTILINE):
                for key in line.split():
                    path = keys.path(key)
                    known = [f"{path}*" if KEYS[key].family else path, "celeriac:*"]
                    channel = KEYS[key].type == "channel" and f"&{path}*" in words
                    assert channel or any(k in patterns for k in known), f"{user}, {name}.lua: key {path}"


def refusals(guarded: Guarded) -> list[tuple[str, str, str]]:
    """What Redis has refused: user, kind, what.

    Not counted is that redis-py names itself (CLIENT SETINFO), which
    no file can allow on every release: it is refused harmlessly.
    """
    found = [(entry["username"], entry["reason"], entry["object"]) for entry in guarded.client.acl_log()]
    return [one for one in found if one[2] not in ("client", "client|setinfo")]


def test_a_mixture_of_everything_is_refused_nothing(guarded: Guarded, site: GuardedSite) -> None:
    site.orchestrator()
    site.worker("prefork")
    instance = site.client.start("mixture", "a", instance_id="m", tags={"t": "1"}, idempotency_key="k")
    site.until(lambda: site.client.get(instance).custom_status == {"at": "start"})
    site.client.raise_event(instance, "go", {"n": 1}, dedup_key="d")
    assert site.wait(instance).output == [380, "a", {"n": 1}, 200_000, 42]
    for n in range(3):
        site.client.push("orders", n)
    site.store.client.lpush("orders", "no JSON")
    site.until(lambda: sum(s.status == "Completed" for s in site.client.list(name="ordered")) == 3)
    site.until(lambda: len(site.client.poison("orders")) == 1)
    assert site.client.redrive("orders") == 1
    drive(site.client)
    look(site)
    assert refusals(guarded) == []
    check_doctor(site)


def drive(client: Client) -> None:
    """Every verb that changes something."""
    for verb in (client.suspend, client.cancel, client.terminate):
        verb(client.start("waiting", instance_id=f"i-{verb.__name__}"), "because")
    client.resume("i-suspend")
    client.raise_event("i-suspend", "go", 1)
    assert client.wait("i-suspend", timeout=60).output == 1
    client.restart("m", True)
    client.terminate(client.start("waiting", start_at=timedelta(hours=1)))
    assert client.purge("m") == 2
    assert client.purge(status="Completed") > 3


def look(site: GuardedSite) -> None:
    """Commands as the user who may not write."""
    for command in (["list"], ["history", "i-cancel"], ["workers"], ["queue", "poison", "orders"]):
        site.cli(*command, who="monitor")


def check_doctor(site: GuardedSite) -> None:
    """It asks for more than it is allowed (CONFIG GET, CLIENT LIST), and makes do without."""
    report = json.loads(site.cli("doctor", "--json", who="monitor"))
    assert report["ok"], report


FORBIDDEN = (
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET appendonly no", "KEYS *", "SHUTDOWN", "SAVE",
    "REPLICAOF NO ONE", "MODULE LIST", "ACL LIST", "CLIENT LIST", "CLIENT KILL ID 1", "MONITOR",
    "SCRIPT FLUSH", "GET foreign", "SET foreign 1", "DEL foreign", "LPUSH other-queue x", "PUBLISH other x",
    "EVAL return(1) 0",
)  # fmt: skip


@pytest.mark.parametrize("user", USERS)
def test_each_user_is_refused_what_it_must_not(guarded: Guarded, user: str) -> None:
    client = redis.Redis(port=guarded.port, username=user, password=f"change-{user}")
    more = {
        "client": ["LPUSH celeriac forged", "LPUSH celeriac\x06\x163 forged", "DBSIZE"],
        "orchestrator": ["DBSIZE"],
        "worker": ["LPUSH orders 1", "ZADD celeriac:timers 1 x", "HSET celeriac:trig:x 1 1", "SUBSCRIBE x"],
        "monitor": [
            "SET celeriac:schema 9",
            "HSET celeriac:inst:x a b",
            "LPUSH celeriac x",
            "UNLINK celeriac",
        ],
    }[user]
    for command in (*FORBIDDEN, *more):
        with pytest.raises(NoPermissionError):
            client.execute_command(*command.split(" "))
    for script in ("redis.call('FLUSHALL')", "redis.call('SET', 'foreign', 1)", "redis.call('KEYS', '*')"):
        sha = client.script_load(script)
        with pytest.raises(redis.ResponseError, match=r"ACL|The user executing the script can't|NOPERM"):
            client.evalsha(sha, 0)
    client.close()


def test_nobody_gets_in_without_a_password(guarded: Guarded) -> None:
    with redis.Redis(port=guarded.port) as client, pytest.raises(redis.AuthenticationError):
        client.get("celeriac:schema")
