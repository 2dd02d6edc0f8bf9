"""Messages of a step that Celery or kombu cannot read are set aside with the reason, and sent again."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from celeriac.celery_app.store import audit


@pytest.fixture(scope="module", autouse=True)
def worker(workers: Any) -> Any:
    return workers.start("threads")


DAMAGES: dict[str, dict[str, Any]] = {
    "the body is no JSON": {"body": base64.b64encode(b"[[").decode()},
    "the body is no base64": {"body": "%%%"},
    "the body is no call": {"body": base64.b64encode(b"7").decode()},
    "the content type is refused": {"content-type": "application/x-python-serialize"},
    "there is no content type": {"content-type": None},
    "there are no properties": {"properties": {}},
    "the ETA is no time": {"headers.eta": "soon"},
    "there is no id": {"headers.id": None},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_in_its_queue(bench: Any, worker: Any, workers: Any, damage: str) -> None:
    """The right message afterwards, made by whoever acts on the audit, ends the step."""
    name = damage.replace(" ", "-")
    execution = bench.start(name)
    whole = bench.step(name, execution, "add", "[[1,2],{}]")
    message = json.loads(whole.message)
    for field, value in DAMAGES[damage].items():
        *path, last = field.split(".")
        (message[path[0]] if path else message)[last] = value
    aside = bench.store.client.llen(bench.store.keys.path("aside"))
    damaged = whole.__class__(whole.seq, whole.queue_key, json.dumps(message).encode())
    bench.commit(name, execution, messages=[damaged])

    def found() -> Any:
        report = bench.store.run(audit.audit(bench.store.keys))
        return [one for one in report.suspects if one.execution == execution]

    (suspect,) = bench.wait_for(found, 30, f"the audit to find the step\n{workers.log(worker)[-3000:]}")
    assert (suspect.kind, suspect.attempt) == ("message", 1)
    bench.wait_for(lambda: bench.store.client.llen(bench.store.keys.path("aside")) == aside + 1)
    reason = bench.store.client.lindex(bench.store.keys.path("aside"), 0).partition(b"\n")[0]
    assert len(reason) > 5
    assert bench.store.run(audit.resend(bench.store.keys, suspect, whole.queue_key, whole.message)) == "OK"
    assert bench.outcome(name).result == "3"
    assert worker.poll() is None
