"""With CELERIAC_SIGNING_KEY whoever can write to the queue still cannot make a worker run what he likes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from guarded import GuardedSite, Serve, all_text, command_lines

from celeriac.celery_app.settings import Settings
from celeriac.celery_app.signing import SIGN_HEADER
from celeriac.orchestrations.errors import InvalidArgumentError

KEY, PASSWORD = "a-key-that-nobody-knows", "a-password-nobody-knows"


@pytest.fixture
def site(serve: Serve, tmp_path: Path) -> Iterator[GuardedSite]:
    server = serve("--requirepass", PASSWORD, password=PASSWORD)
    made = GuardedSite(tmp_path, {"client": f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"})
    made.settings = replace(made.settings, signing_key=KEY)
    try:
        yield made
    finally:
        made.close()


def other_arguments(message: bytes) -> dict[str, Any]:
    """The message with what its activity is called with changed."""
    envelope = json.loads(message)
    body = json.loads(base64.b64decode(envelope["body"]))
    body[0] = ['[["forged"],{}]']
    return envelope | {"body": base64.b64encode(json.dumps(body).encode()).decode()}


@pytest.mark.parametrize("signature", ["kept", "missing"])
def test_a_changed_message_of_an_open_step_is_set_aside_and_the_true_one_made_anew(
    site: GuardedSite, tmp_path: Path, signature: str
) -> None:
    client, queue = site.store.client, site.settings.queue_key()
    site.orchestrator()
    instance = site.client.start("noting", "true")
    site.until(lambda: client.llen(queue))
    forged = other_arguments(client.lindex(queue, 0))
    if signature == "missing":
        del forged["headers"][SIGN_HEADER]
    client.lset(queue, 0, json.dumps(forged))
    site.worker("threads")
    assert site.wait(instance).output == "true"
    assert (tmp_path / "effects").read_text() == "true\n"
    (aside,) = client.lrange(site.store.keys.path("aside"), 0, -1)
    assert aside.startswith(b"its signature does not fit" if signature == "kept" else b"it is not signed")
    report = site.cli("doctor", "--json") + site.cli("workers", "--json")
    shown = "\n".join(command_lines().values()) + all_text(tmp_path) + report
    assert (KEY in shown, PASSWORD in shown) == (False, False)


def test_a_key_is_never_shown_and_needs_our_transport() -> None:
    assert KEY not in repr(Settings(signing_key=KEY))
    with pytest.raises(InvalidArgumentError, match="CELERIAC_SIGNING_KEY") as short:
        Settings.load({"CELERIAC_SIGNING_KEY": "too-short"}, Path("/"), beside_dev=False)
    assert "too-short" not in str(short.value)
    with pytest.raises(InvalidArgumentError, match="stock"):
        Settings(signing_key=KEY, transport="stock")
