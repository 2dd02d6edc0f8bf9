"""What somebody else puts on the queue by hand runs nothing of ours."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from celeriac.celery_app.messages import TaskId
from celeriac.celery_app.signing import sign, verifier
from celeriac.orchestrations.history import ActivityOptions


@pytest.fixture(scope="module")
def worker(workers: Any) -> Any:
    return workers.start("threads")


def test_messages_that_no_open_step_wants_run_nothing(
    bench: Any, workers: Any, worker: Any, tmp_path: Path
) -> None:
    effect = tmp_path / "effect"
    call = json.dumps([[0, str(effect)], {}])
    key = bench.settings.queue_key()
    execution = bench.call("other", "echo", "[[1],{}]", queue="nobody")
    unknown = TaskId(secrets.token_hex(8), 1, 1, "other")
    _, plain = bench.emitter.activity_message("sleep", str(unknown), unknown.step, call, ActivityOptions(), 0)
    step = f'"celeriac-step": "{unknown.step}"'.encode()
    forged = [
        plain,
        plain.replace(step, b'"other": ""'),
        plain.replace(step, rb'"celeriac\u002dstep": "' + unknown.step.encode() + b'"'),
        plain.replace(step, f'"celeriac-step": "{execution}:1:1"'.encode()),
        plain.replace(step, b'"celeriac-step": "../../x"'),
    ]
    assert len(set(forged)) == len(forged)
    bench.store.client.lpush(key, *forged)
    bench.app.send_task("sleep", (0, str(effect)), queue=bench.settings.queue)
    bench.call("true", "echo", "[[2],{}]")
    assert bench.outcome("true").result == "2"
    bench.wait_for(lambda: "not run: its message is not of a step" in workers.log(worker))
    bench.wait_for(lambda: bench.store.client.hlen(bench.store.keys.flight(_incarnation(bench))) == 0)
    assert not effect.exists()
    (aside,) = bench.store.client.lrange(bench.store.keys.path("aside"), 0, -1)
    assert aside.startswith(b"it is forged")


def _incarnation(bench: Any) -> str:
    (name,) = [n.decode() for n in bench.store.client.zrange(bench.store.keys.beats, 0, -1) if n[:1] == b"w"]
    return name


def test_a_signature_is_of_the_whole_message_and_of_this_key() -> None:
    key, bare = b"k" * 16, b'{"body": "YQ==", "headers": {"celeriac-sign": "", "task": "pay"}}'
    signed = sign(key, bare)
    assert json.loads(signed)["headers"]["celeriac-sign"]
    verify = verifier("k" * 16)
    assert verify is not None
    assert verify(signed) == ""
    for at in range(0, len(signed), 3):
        assert verify(signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :])
    assert "not signed" in verify(bare)
    assert "another" in verify(sign(b"x" * 16, bare))
    assert verifier("") is None
