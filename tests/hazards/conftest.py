"""A Redis of their own for the tests of the hazards: some of them break it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from bench import Bench

from celeriac.celery_app import embedded
from celeriac.celery_app.app import create_app
from celeriac.celery_app.emission import Emitter
from celeriac.celery_app.settings import Settings
from celeriac.celery_app.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # the helpers of this folder

from brokers import Broker


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a Redis on a loopback port."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory = Path(tempfile.mkdtemp(prefix="clr"))
    with embedded.start(directory, port=port) as running:
        yield running.url
    shutil.rmtree(directory)


@pytest.fixture
def client(server: str) -> Iterator[redis.Redis]:
    """A client of that Redis, which is empty before each test."""
    with redis.Redis.from_url(server) as made:
        made.flushdb()
        yield made


@pytest.fixture
def stock(server: str, client: redis.Redis) -> Broker:
    """kombu's own transport."""
    return Broker(server, client, ours=False)


@pytest.fixture
def ours(server: str, client: redis.Redis) -> Broker:
    """Our transport."""
    return Broker(server, client, ours=True)


@pytest.fixture
def bench(server: str, client: redis.Redis) -> Iterator[Bench]:
    """Plays the orchestrator, in a hub of its own."""
    name = f"h{os.urandom(3).hex()}"
    settings = Settings(redis_url=server, hub=name, queue=f"q{name}")
    app = create_app(settings, load=False)
    with Store.connect(settings) as store:
        yield Bench(settings, store, Emitter(app, settings), app)
    app.close()
