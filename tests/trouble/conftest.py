"""Fixtures: a Redis that a test may kill, a proxy before it, and a site behind that."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests share modules of this directory

from proxy import Proxy
from trouble_site import RedisServer, Site


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis whose answer to a write means that it is on the disk, unless the test asks for `everysec`."""
    made = RedisServer(tmp_path / "redis", getattr(request, "param", "always"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    made = Proxy(server.port)
    yield made
    made.close()


@pytest.fixture
def site(proxy: Proxy, tmp_path: Path) -> Iterator[Site]:
    made = Site(proxy, tmp_path, lease=4, beat=1)
    try:
        yield made
    finally:
        made.close()
