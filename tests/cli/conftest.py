"""A Redis for a file of tests, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from celeriac.celery_app import embedded
from celeriac.cli.main import run

Cli = Callable[..., tuple[int, str, str]]
EXAMPLES = "celeriac.orchestrations.examples"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded.start(tmp_path_factory.mktemp("r")) as redis:
        yield redis.url


@pytest.fixture
def cli(url: str, hub: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("CELERIAC_REDIS_URL", url)
    monkeypatch.setenv("CELERIAC_HUB", hub)
    monkeypatch.setenv("CELERIAC_APP", EXAMPLES)

    def call(*argv: str) -> tuple[int, str, str]:
        code = run(list(argv))
        said = capsys.readouterr()
        return int(code), said.out, said.err

    return call
