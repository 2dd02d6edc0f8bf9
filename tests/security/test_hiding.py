"""A password that was given by `--redis` shows in no command line of ours and in no log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from guarded import GuardedSite, Serve, all_text, command_lines

from celeriac.cli.hiding import without_url

PASSWORD = "a-password-nobody-is-to-see"


@pytest.fixture
def site(serve: Serve, tmp_path: Path) -> Iterator[GuardedSite]:
    server = serve("--requirepass", "", password="")
    server.client.config_set("requirepass", PASSWORD)  # else the server's own command line would show it
    made = GuardedSite(tmp_path, {"client": f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"})
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("given", ["--redis URL", "--redis=URL", "--redis @FILE"])
def test_processes_that_were_given_a_password_do_not_show_it(
    site: GuardedSite, tmp_path: Path, given: str
) -> None:
    url, no = site.urls["client"], {"CELERIAC_REDIS_URL": "redis://127.0.0.1:1/0"}
    (tmp_path / "url").write_text(url + "\n")
    words = given.replace("URL", url).replace("FILE", str(tmp_path / "url")).split()
    orchestrator = site._joined("o", lambda: site.start("orchestrator", *words, **no))
    worker = site._joined("w", lambda: site.start("worker", "--concurrency", "2", *words, **no))
    instance = site.client.start("noting", "seen")
    assert site.wait(instance).output == "seen"  # the worker, its children and its beat helper are up
    lines = command_lines()
    for process in (orchestrator, worker):
        assert "celeriac" in lines[process.pid]  # the same process, under the same pid
        assert PASSWORD not in lines[process.pid]
    assert [line for line in lines.values() if PASSWORD in line] == []
    report = site.start("list", *words, "--json", **no)
    assert report.wait(60) == 0, site.logs()
    log = (tmp_path / f"list-{len(site.running) - 1}.log").read_text()
    assert json.loads(log[log.index("{") :])["instances"][0]["output"] == "seen"
    assert ("everyone on this machine could read the password" in log) == ("URL" in given)
    assert PASSWORD not in all_text(tmp_path)


def test_a_file_that_says_no_url_is_refused(site: GuardedSite, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert "is empty" in site.cli("list", "--redis", f"@{tmp_path / 'empty'}", code=2)
    assert "cannot be read" in site.cli("list", "--redis", f"@{tmp_path / 'no'}", code=2)


def test_only_our_own_option_is_taken_away() -> None:
    words = ["-m", "celeriac", "--redis", "a", "worker", "--redis=b", "-c", "2", "--", "--redis", "c"]
    assert without_url(words) == (["-m", "celeriac", "worker", "-c", "2", "--", "--redis", "c"], "b")
    assert without_url(["list"]) == (["list"], "")
    assert without_url(["list", "--redis"]) == (["list"], "")
