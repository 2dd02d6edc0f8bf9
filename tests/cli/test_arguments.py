"""What is typed wrongly: a clear text, the right exit code, and nothing sent anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from celeriac.cli.common import JsonInput, Moment, Seconds, parse_json
from celeriac.cli.exits import MEANINGS, Exit
from celeriac.cli.main import SECTIONS, cli, run
from celeriac.orchestrations import errors

NOWHERE = "redis://127.0.0.1:1/0"  # a port that nobody listens on: a test that sent anything would exit 10


def ran(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Run one command line in this process: exit code, stdout, stderr."""
    code = run(["--redis", NOWHERE, *argv])
    said = capsys.readouterr()
    return int(code), said.out, said.err


def test_every_command_is_in_one_section_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(cli.commands)
    code, out, _ = ran(capsys, "--help")
    assert code == 0
    for name in listed:
        assert f"  {name} " in out
    assert "124  it did not end in time" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "..." not in out.partition("Run it:")[2], "a one-line help is too long"


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.commands:
        code, out, _ = ran(capsys, name, "--help")
        assert code == 0
        assert out.startswith(f"Usage: celeriac {name}")


def test_exit_codes_are_those_of_the_clients_errors() -> None:
    named = {error.exit_code for error in vars(errors).values() if _is_client_error(error)}
    assert named <= {int(code) for code in Exit}
    assert set(MEANINGS) == set(Exit)


def _is_client_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, errors.ClientError)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["strat", "x"], "Did you mean 'start'?"),
        (["start"], "Missing argument 'NAME'"),
        (
            ["start", "x", "-i", '{"a" 1}'],
            "Expecting ':' delimiter at line 1, column 6\n  {\"a\" 1}\n       ^",
        ),
        (["start", "x", "-i", "hello"], "A text needs quotes of its own: -i '\"hello\"'"),
        (["start", "x", "-i", "{'a': 1}"], "JSON wants double quotes"),
        (["start", "x", "-i", ""], "It is empty."),
        (["start", "x", "-i", "[NaN]"], "NaN is not JSON"),
        (["start", "x", "-i", "1e999"], "the number 1e999 is too large"),
        (["start", "x", "-i", "@no/such/file"], "no/such/file cannot be read"),
        (["start", "x", "--tag", "novalue"], "'novalue' is not KEY=VALUE"),
        (["start", "x", "--at", "tomorrow"], "'tomorrow' is not a time"),
        (["start", "x", "--delay", "3 weeks"], "'3 weeks' is not a duration"),
        (["start", "x", "--delay", "1s", "--at", "2030-01-01"], "--at and --delay exclude each other"),
        (["start", "x", "--timeout", "1s"], "--timeout needs --wait"),
        (["start", "x", "--on-conflict", "replace"], "'replace' is not one of"),
        (["list", "--status", "Done"], "'Done' is not one of"),
        (["list", "--limit", "0"], "0 is not in the range"),
        (["restart", "x", "--new-id", "--as", "y"], "--new-id and --as exclude each other"),
        (["purge"], "give an ID, or conditions, or --all"),
        (["purge", "x", "--all"], "give an ID, or conditions, or --all"),
        (["purge", "--status", "Running"], "'Running' is not one of"),
        (["queue", "push", "q"], "Missing option '-i'"),
        (["worker"], "no modules to serve"),
        (["orchestrator"], "no modules to serve"),
        (["worker", "--pool", "gevent", "--app", "x"], "'gevent' is not one of"),
        (["worker", "--app", "x.py"], "x.py"),
        (["completion", "powershell"], "'powershell' is not one of"),
        (["dev", "--workers", "-1"], "-1 is not in the range"),
    ],
)
def test_a_wrong_command_line(capsys: pytest.CaptureFixture[str], argv: list[str], says: str) -> None:
    code, out, err = ran(capsys, *argv)
    assert says in err
    assert code == Exit.USAGE
    assert out == ""


def test_a_bad_setting_names_its_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERIAC_REDIS_URL", "localhost")
    assert run(["status", "x"]) == Exit.USAGE
    assert "CELERIAC_REDIS_URL is 'localhost'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["list"], ["status", "x"], ["start", "x"], ["workers"], ["cancel", "x"]])
def test_without_redis(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    code, out, err = ran(capsys, *argv)
    assert (code, out) == (Exit.NO_REDIS, "")
    assert err.startswith(f"Error: Redis at {NOWHERE} does not answer")
    assert "celeriac dev" in err


@pytest.mark.parametrize(
    "argv",
    [
        ["start", "x", "--id", "a/b"], ["status", "a/b"], ["wait", "a/b"], ["watch", "a/b"],
        ["history", "a/b"], ["cancel", "a/b"], ["restart", "a/b"], ["purge", "a/b"],
        ["raise-event", "a/b", "Go"],
    ],
)  # fmt: skip
def test_a_bad_id_is_said_without_redis_too(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    code, out, err = ran(capsys, *argv)
    assert (code, out) == (Exit.USAGE, "")
    assert err.startswith("Error: the instance id 'a/b' contains '/'")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = ran(capsys, "completion", shell)
    assert code == 0
    assert "_CELERIAC_COMPLETE" in out


def test_json_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    def given(text: str) -> object:
        return JsonInput().convert(text, None, None).value

    (tmp_path / "x.json").write_text('{"ä": [1, 2.5, null]}', encoding="utf-8")
    assert given(f"@{tmp_path}/x.json") == {"ä": [1, 2.5, None]}
    assert given('"text"') == "text"
    assert given("null") is None
    monkeypatch.setattr("sys.stdin", io.StringIO("[1]\n"))
    assert given("-") == [1]
    (tmp_path / "latin").write_bytes(b'"\xe4"')
    with pytest.raises(click.BadParameter, match="cannot be read"):
        given(f"@{tmp_path}/latin")


def test_the_place_of_a_fault_in_a_long_text() -> None:
    text = json.dumps(["x" * 30] * 40).replace('", "', '" "', 1)
    with pytest.raises(ValueError, match="line 1, column 35") as caught:
        parse_json(text)
    shown, caret = str(caught.value).splitlines()[1:3]
    assert shown[caret.index("^") - 1 : caret.index("^") + 1] == ' "'
    with pytest.raises(ValueError, match="line 2, column 1"):
        parse_json('{"a":\n')  # it ends where the last line, an empty one, begins
    with pytest.raises(ValueError, match="line 2, column 3"):
        parse_json("[1,\n  ]")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5m", 90), ("250ms", 0.25), ("2h", 7200), ("1d", 86400), (" 3 s ", 3)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Seconds().convert(text, None, None) == seconds


def test_times() -> None:
    assert Moment().convert("2026-01-31T08:00+01:00", None, None).isoformat() == "2026-01-31T07:00:00+00:00"
    assert Moment().convert("2026-01-31T08:00:00Z", None, None).hour == 8
    assert Moment().convert("2026-01-31", None, None).tzinfo is not None
