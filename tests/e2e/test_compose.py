"""docker-compose.yml and the Dockerfile say only what the product does. No Docker engine is needed."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from celeriac.celery_app.doctor import Report
from celeriac.celery_app.doctor.installation import check_access
from celeriac.celery_app.settings import Settings
from celeriac.cli.main import cli

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
REDIS_WORDS: list[str] = SERVICES["redis"]["command"]
REDIS_OPTIONS = dict(zip(REDIS_WORDS[1::2], REDIS_WORDS[2::2], strict=True))
OURS = [name for name, service in SERVICES.items() if service.get("image") == "celeriac"]


def substituted(text: str) -> str:
    """What Compose makes of a text when none of its variables is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def settings_of(name: str) -> Settings:
    given = {key: substituted(value) for key, value in SERVICES[name]["environment"].items()}
    return Settings.load(given, cwd=Path("/"))


def parses(words: list[str]) -> None:
    """Let click parse `celeriac <words>` without running it; fails with click's own message."""
    command: click.Command = cli
    context = click.Context(cli, info_name="celeriac")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]!r}"
        command, words = found, words[1:]
    command.make_context(command.name, words, parent=context)


def test_the_services_are_the_ones_the_design_names() -> None:
    assert set(OURS) == {"orchestrator", "worker", "cli"}
    assert "redis" in SERVICES


@pytest.mark.parametrize("name", OURS)
def test_every_command_exists_with_its_options(name: str) -> None:
    parses(list(SERVICES[name]["command"]))


@pytest.mark.parametrize("name", [n for n in OURS if "healthcheck" in SERVICES[n]])
def test_every_health_check_is_a_command_of_ours(name: str) -> None:
    kind, program, *words = SERVICES[name]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "celeriac")
    parses(list(words))


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    known = {*Settings().environment()}
    assert {v for v in SERVICES[name]["environment"] if v.startswith("CELERIAC_")} <= known
    assert len(known) == len(fields(Settings))


@pytest.mark.parametrize("name", OURS)
def test_every_process_finds_the_redis_of_the_file_and_waits_for_it(name: str) -> None:
    settings = settings_of(name)
    assert settings.apps == ("celeriac.orchestrations.examples",)
    # The service's name, Redis' own port, and the password that the service asks for.
    assert settings.redis_url == f"redis://:{substituted(REDIS_OPTIONS['--requirepass'])}@redis:6379/0"
    assert SERVICES[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}


@pytest.mark.parametrize("name", OURS)
def test_doctor_does_not_refuse_the_redis_of_the_file(name: str) -> None:
    report = Report()
    check_access(report, settings_of(name))
    assert report.checks
    assert [check for check in report.checks if check.level == "refuse"] == []


@pytest.mark.parametrize("name", ["orchestrator", "worker"])
def test_what_scales_has_no_fixed_name_or_port_and_stops_gracefully(name: str) -> None:
    service = SERVICES[name]
    assert "container_name" not in service
    assert "ports" not in service
    assert service["stop_signal"] == "SIGTERM"
    assert int(re.fullmatch(r"(\d+)s", service["stop_grace_period"])[1]) >= 10  # pyright: ignore[reportOptionalSubscript]
    assert "healthcheck" in service


def test_redis_is_durable_and_evicts_nothing() -> None:
    options = REDIS_OPTIONS
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert [v.split(":")[0] for v in SERVICES["redis"]["volumes"]] == list(COMPOSE["volumes"])


def test_one_password_for_redis_its_health_check_and_us() -> None:
    given = REDIS_OPTIONS["--requirepass"]
    assert SERVICES["redis"]["environment"]["REDISCLI_AUTH"] == given  # redis-cli reads it by itself
    assert SERVICES["redis"]["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]
    assert {SERVICES[name]["environment"]["CELERIAC_REDIS_URL"] for name in OURS} == {
        f"redis://:{given}@redis:6379/0"
    }


def test_the_image_holds_every_package_and_starts_the_console_script() -> None:
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = set(re.findall(r"^COPY (\w+) \w+$", docker, re.MULTILINE))
    assert copied == {"orchestrations", "activities", "celery_app", "cli"}
    assert 'ENTRYPOINT ["celeriac"]' in docker
    assert re.search(r"^USER (?!root)", docker, re.MULTILINE)


def test_what_docker_ignores_the_image_does_not_need() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    ignored = {line for line in lines if line and not line.startswith("#")}
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", docker, re.MULTILINE) for word in line.split()}
    assert {".git", ".venv", ".celeriac", "tests", "docs", "benchmarks"} <= ignored
    assert copied & ignored == set()
