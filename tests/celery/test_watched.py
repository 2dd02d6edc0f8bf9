"""What a worker's channel knows of its connections."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from celeriac.celery_app.transport.watched import WatchedChannel

# In a process without threads, because it forks.
FORKING = """
import os, socket
from celeriac.celery_app.transport import watched

class Connection:
    pass

ours, theirs = socket.socketpair()
connection = Connection()
connection._sock = ours
watched._connections.add(connection)
child = os.fork()
if not child:
    os._exit(0 if ours.fileno() == -1 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child kept its copy"
ours.send(b"alive")
assert theirs.recv(5) == b"alive"
"""


def test_a_forked_child_closes_its_copies_and_leaves_the_connection_to_its_parent() -> None:
    """Not by `shutdown`, which would end it for both."""
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_another_server_is_noticed_once() -> None:
    channel: Any = WatchedChannel.__new__(WatchedChannel)
    channel._origin, channel._changes = SimpleNamespace(changes=0), 0
    assert not channel.server_changed()
    channel._origin.changes += 1
    assert channel.server_changed()
    assert not channel.server_changed()
