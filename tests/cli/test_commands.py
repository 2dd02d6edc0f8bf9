"""The commands on a real Redis where no worker runs: their words, their JSON, their exit codes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from celeriac.celery_app.client.sync import Client
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store, flights, views
from celeriac.cli.exits import Exit

EXAMPLES = "celeriac.orchestrations.examples"
EXPENSE = '{"expense_id": "e", "employee": "kim", "amount": "1", "folder": "/tmp"}'
Cli = Callable[..., tuple[int, str, str]]
ORDER = '{"database": "/tmp/shop", "order_id": "7"}'


def test_start_prints_the_id_and_warns_beside_it_that_nobody_will_run_it(cli: Cli) -> None:
    code, out, err = cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1", "--tag", "dept=a")
    assert (code, out) == (0, "e-1\n")
    assert "no orchestrator worker is alive" in err
    code, out, _ = cli("start", "approve_expense", "-i", EXPENSE)
    assert code == 0
    assert len(out.strip()) == 32
    code, out, _ = cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-2", "--json")
    assert json.loads(out)["runtimeStatus"] == "Pending"


def test_the_same_id_twice(cli: Cli) -> None:
    assert cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1")[0] == 0
    code, out, err = cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1")
    assert (code, out) == (Exit.EXISTS, "")
    assert "e-1 is still running" in err
    assert cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1", "--on-conflict", "use_existing")[
        :2
    ] == (0, "e-1\n")


def test_a_bad_id(cli: Cli) -> None:
    for argv in (
        ["start", "approve_expense", "-i", EXPENSE, "--id", "a/b"],
        ["status", "a/b"],
        ["cancel", "a/b"],
    ):
        code, out, err = cli(*argv)
        assert (code, out) == (Exit.USAGE, "")
        assert "contains '/' at position 1" in err
    assert cli("status", "x" * 257)[0] == Exit.USAGE


def test_an_unknown_name_gets_a_suggestion(cli: Cli) -> None:
    code, out, err = cli("start", "approve_expenses")
    assert (code, out) == (Exit.UNKNOWN_NAME, "")
    assert "did you mean 'approve_expense'?" in err
    assert cli("list")[2].startswith("No instances"), "nothing half done"
    code, _, err = cli("start", "approve_expense", "--version", "9")
    assert code == Exit.UNKNOWN_NAME
    assert "version '9'" in err


def test_an_input_that_does_not_fit_starts_nothing(
    cli: Cli, url: str, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ordering_flows.py").write_text(
        "from celeriac.orchestrations import OrchestrationContext, orchestrator\n"
        "print('imported')\n"
        "@orchestrator\n"
        "async def order_things(ctx: OrchestrationContext, count: int) -> int:\n"
        "    return count\n"
    )
    monkeypatch.chdir(tmp_path)
    with Store.connect(Settings(redis_url=url, hub=hub)) as store:  # as some orchestrator worker had noted
        store.run(views.note_served(store.keys, {"o order_things": [""]}))
    start = ("start", "order_things", "--id", "o-1", "--app", "ordering_flows", "-i")
    code, out, err = cli(*start, '"many"')
    assert (code, out) == (Exit.USAGE, "")
    assert "the input does not fit orchestrator 'order_things'" in err
    assert cli("status", "o-1")[0] == Exit.NOT_FOUND
    code, out, err = cli(*start[:-1])
    assert (code, out) == (Exit.USAGE, "")
    assert (
        "the input does not fit orchestrator 'order_things': none was given, and an input is needed (int)"
        in err
    )
    assert cli(*start, "3")[:2] == (0, "o-1\n"), "what the module prints does not mix with the id"


def test_a_module_that_is_not_there(cli: Cli) -> None:
    code, _, err = cli("start", "something", "--app", "no_such_module")
    assert code == Exit.USAGE
    assert "there is no module 'no_such_module'" in err


def test_a_value_over_the_limit(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_MAX_PAYLOAD", "5000")
    (tmp_path / "big.json").write_text(json.dumps("x" * 6000))
    code, _, err = cli("start", "approve_expense", "-i", f"@{tmp_path}/big.json")
    assert code == Exit.TOO_LARGE
    assert "CELERIAC_MAX_PAYLOAD" in err


def test_status_list_and_history(cli: Cli) -> None:
    cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1", "--tag", "dept=a")
    cli("start", "fulfil_order", "-i", ORDER, "--id", "o-1", "--delay", "1h")
    code, out, err = cli("status", "e-1")
    assert code == 0
    assert "Pending" in out
    assert "dept=a" in out
    assert "no orchestrator worker is alive" in err
    code, out, _ = cli("status", "e-1", "--json")
    payload = json.loads(out)
    assert (payload["instanceId"], payload["name"], payload["tags"]) == (
        "e-1",
        "approve_expense",
        {"dept": "a"},
    )
    assert payload["input"] == json.loads(EXPENSE)
    code, out, _ = cli("list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["Instance", "o-1", "e-1"]
    for filters, ids in (
        (["--name", "fulfil_order"], ["o-1"]),
        (["--prefix", "e-"], ["e-1"]),
        (["--tag", "dept=a"], ["e-1"]),
        (["--status", "pending"], ["o-1", "e-1"]),
        (["--status", "Failed"], []),
        (["--from", "2999-01-01"], []),
        (["--all"], ["o-1", "e-1"]),
    ):
        code, out, _ = cli("list", "--json", *filters)
        page = json.loads(out)
        assert [entry["instanceId"] for entry in page["instances"]] == ids, filters
        assert page["cursor"] is None
    code, out, err = cli("list", "--limit", "1", "--json")
    page = json.loads(out)
    assert ([entry["instanceId"] for entry in page["instances"]], err) == (["o-1"], "")
    page = json.loads(cli("list", "--json", "--cursor", page["cursor"])[1])
    assert [entry["instanceId"] for entry in page["instances"]] == ["e-1"]
    assert "There are more: --cursor" in cli("list", "--limit", "1")[2]
    assert "No history yet" in cli("history", "e-1")[1]
    assert json.loads(cli("history", "e-1", "--json")[1]) == []


@pytest.mark.parametrize(
    "argv",
    [
        ["status"], ["wait"], ["watch"], ["history"], ["suspend"], ["resume"], ["cancel"], ["terminate"],
        ["restart"], ["purge"], ["raise-event", "x"],
    ],
)  # fmt: skip
def test_an_instance_that_is_not_there(cli: Cli, argv: list[str]) -> None:
    code, out, err = cli(argv[0], "nobody", *argv[1:])
    assert (code, out) == (Exit.NOT_FOUND, "")
    assert "nobody" in err


def test_an_instance_that_has_ended_and_one_that_has_not(cli: Cli) -> None:
    cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1")
    assert cli("purge", "e-1")[0] == Exit.NOT_ENDED
    assert cli("restart", "e-1")[0] == Exit.NOT_ENDED
    assert cli("terminate", "e-1", "--reason", "a test")[0] == 0
    for argv in (["raise-event", "e-1", "Approval"], ["suspend", "e-1"], ["cancel", "e-1"]):
        code, _, err = cli(*argv)
        assert code == Exit.ENDED, argv
        assert "e-1" in err
    assert "a test" in cli("status", "e-1")[1]
    assert cli("wait", "e-1")[0] == Exit.FAILED
    assert cli("watch", "e-1")[0] == Exit.FAILED
    assert cli("purge", "e-1")[0] == 0
    assert cli("status", "e-1")[0] == Exit.NOT_FOUND


def test_what_changes_nothing_says_so(cli: Cli) -> None:
    cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1")
    assert cli("resume", "e-1") == (0, "", "e-1: was not suspended.\n")
    assert cli("suspend", "e-1", "--reason", "look first") == (0, "", "e-1: suspended.\n")
    assert cli("suspend", "e-1") == (0, "", "e-1: was suspended already.\n")
    assert "look first" in cli("status", "e-1")[1]
    assert cli("resume", "e-1") == (0, "", "e-1: resumed.\n")
    assert cli("cancel", "e-1") == (0, "", "e-1: asked to cancel.\n")
    assert cli("cancel", "e-1") == (0, "", "e-1: was asked to cancel already.\n")


def test_a_reason_to_restart_and_one_to_purge(cli: Cli) -> None:
    cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1")
    cli("terminate", "e-1")
    cli("restart", "e-1", "--reason", "wrong amount")
    assert "wrong amount" in cli("status", "e-1")[1]
    cli("terminate", "e-1")
    assert cli("purge", "e-1", "--reason", "asked by Ada")[2] == "Removed 1 instance: asked by Ada\n"


def test_restart_prints_the_id_and_keeps_the_input(cli: Cli) -> None:
    cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1")
    cli("terminate", "e-1")
    assert cli("restart", "e-1")[:2] == (0, "e-1\n")
    assert json.loads(cli("status", "e-1", "--json")[1])["input"] == json.loads(EXPENSE)
    cli("terminate", "e-1")
    assert cli("restart", "e-1", "--as", "e-2")[:2] == (0, "e-2\n")
    code, out, _ = cli("restart", "e-1", "--new-id")
    assert code == 0
    assert out.strip() not in {"e-1", "e-2", ""}


def test_waiting_ends_in_time_and_says_that_nobody_works(cli: Cli) -> None:
    code, out, err = cli(
        "start", "approve_expense", "-i", EXPENSE, "--id", "e-1", "--wait", "--timeout", "0.2s", "--json"
    )
    assert code == Exit.TIMEOUT
    assert json.loads(out)["runtimeStatus"] == "Pending"
    assert "no orchestrator worker is alive" in err
    assert "celeriac wait e-1" in err
    assert cli("wait", "e-1", "--timeout", "100ms")[0] == Exit.TIMEOUT


def test_a_piped_watch_prints_changes_and_ends_with_the_instance(cli: Cli, url: str, hub: str) -> None:
    cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1")
    with Client(url, hub) as client:
        ending = threading.Timer(0.4, client.terminate, ["e-1"])
        ending.start()
        code, out, _ = cli("watch", "e-1")
        ending.join()
    assert code == Exit.FAILED
    words = [line.split(maxsplit=1)[1] for line in out.splitlines()]
    assert words == ["e-1 approve_expense Pending", "e-1 approve_expense Terminated"]


def test_a_watch_as_json_is_one_tree_a_line(cli: Cli, url: str, hub: str) -> None:
    cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1")
    with Client(url, hub) as client:
        ending = threading.Timer(0.4, client.terminate, ["e-1"])
        ending.start()
        code, out, _ = cli("watch", "e-1", "--json")
        ending.join()
    assert code == Exit.FAILED
    trees = [json.loads(line) for line in out.splitlines()]
    assert [tree["runtimeStatus"] for tree in trees] == ["Pending", "Terminated"]
    assert trees[0]["children"] == []


def test_purging_many_asks_first(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("e-1", "e-2", "e-3"):
        cli("start", "approve_expense", "-i", EXPENSE, "--id", name)
    cli("terminate", "e-1")
    cli("terminate", "e-2")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, _, err = cli("purge", "--all")
    assert code == Exit.FAILED
    assert "Remove every finished instance" in err
    assert cli("purge", "--prefix", "e-1", "--yes")[2] == "Removed 1 instance.\n"
    assert cli("purge", "--all", "--yes")[2] == "Removed 1 instance.\n"
    assert [entry["instanceId"] for entry in json.loads(cli("list", "--json")[1])["instances"]] == ["e-3"]


def test_trigger_queues(cli: Cli, url: str, hub: str) -> None:
    code, out, err = cli("queue", "push", f"{hub}-orders", "-i", '{"a": 1}')
    assert (code, out) == (0, "")
    assert err.endswith(f"1 message in {hub}-orders.\n")
    assert f"no living orchestrator listens to {hub}-orders" in err
    with Store.connect(Settings(redis_url=url, hub=hub)) as store:
        about = json.dumps({"kind": "listener", "queues": [f"{hub}-orders"]})
        store.run(flights.beat(store.keys, "t1", 60_000, info=about, join=True))
    assert cli("queue", "push", f"{hub}-orders", "-i", "2")[2] == f"2 messages in {hub}-orders.\n"
    assert f"(they listen to {hub}-orders)" in cli("queue", "push", f"{hub}-order", "-i", "2")[2]
    assert cli("queue", "poison", f"{hub}-orders")[1] == ""
    assert json.loads(cli("queue", "poison", f"{hub}-orders", "--json")[1]) == []
    assert cli("queue", "redrive", f"{hub}-orders")[2].startswith("0 messages put back")


def test_a_process_that_is_not_heard_of(cli: Cli, url: str, hub: str) -> None:
    with Store.connect(Settings(redis_url=url, hub=hub)) as store:
        for name, left in (("o1", 10_000), ("w2", 5_000), ("w3", 0)):
            store.run(flights.beat(store.keys, name, left, info=json.dumps({"pid": 7}), join=True))
    code, out, _ = cli("workers")
    assert code == 0
    first, second, third = out.splitlines()[1:]
    assert re.search(r"alive, \d+ ms ago|alive, [0-3]\.\d s ago", first), first
    assert re.search(r"not heard for \d+\.\d s", second), second
    assert "dead: not heard for 1" in third


def test_reasons_of_many_lines_stay_in_one_line_of_a_table(cli: Cli) -> None:
    cli("start", "approve_expense", "-i", EXPENSE, "--id", "e-1")
    assert cli("terminate", "e-1", "--reason", "\nfirst\nsecond")[0] == 0
    assert [line.split()[0] for line in cli("list")[1].splitlines()] == ["Instance", "e-1"]
    assert cli("list")[1].rstrip().endswith("first …")
    assert "second" in cli("status", "e-1")[1]
    code, out, _ = cli("watch", "e-1")
    assert (code, len(out.splitlines())) == (Exit.FAILED, 1)


def test_workers_when_there_are_none(cli: Cli) -> None:
    code, out, err = cli("workers")
    assert (code, out) == (0, "")
    assert "No process is alive" in err
    assert json.loads(cli("workers", "--json")[1]) == []


def test_a_hub_of_a_newer_release_is_refused(cli: Cli, url: str, hub: str) -> None:
    with Store.connect(Settings(redis_url=url, hub=hub)) as store:
        assert json.loads(cli("doctor", "--json")[1])["ok"]
        assert not store.client.exists(store.keys.schema), "doctor only looks"
        store.client.set(store.keys.schema, "999")
    for name in ("worker", "orchestrator", "list"):
        code, _, err = cli(name)
        assert code == Exit.BAD_REDIS, name
        assert "newer Celeriac (schema 999" in err
    code, out, _ = cli("doctor", "--json")
    assert code == Exit.BAD_REDIS
    (check,) = [check for check in json.loads(out)["checks"] if check["name"] == "schema"]
    assert check["level"] == "refuse"
    assert "schema 999" in check["text"]


@pytest.mark.parametrize(("ending", "code", "says"), [("3", 3, ""), ("'no room'", 1, "Error: no room\n")])
def test_a_worker_exits_with_the_code_celery_ended_with(
    url: str, hub: str, tmp_path: Path, ending: str, code: int, says: str
) -> None:
    (tmp_path / "ending_worker.py").write_text(
        "from celery import bootsteps\n"
        "from celeriac.celery_app import app\n"
        "class End(bootsteps.StartStopStep):\n"
        "    requires = ('celery.worker.components:Pool',)\n"
        f"    def start(self, parent): raise SystemExit({ending})\n"
        "app.steps['worker'].add(End)\n"
    )
    command = [sys.executable, "-m", "celeriac.cli.main", "--redis", url, "--hub", hub]
    ran = subprocess.run(
        [*command, "worker", "--app", "ending_worker", "--pool", "solo"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == code, ran.stderr
    assert ran.stderr.endswith(says)


def test_processes_refuse_a_redis_that_is_not_there(cli: Cli) -> None:
    for name in ("orchestrator", "worker"):
        code, _, err = cli(name, "--redis", "redis://127.0.0.1:1/0")
        assert code == Exit.NO_REDIS
        assert "redis://127.0.0.1:1/0 does not answer" in err
