"""With a codec no value of a user reaches Redis or a log, whatever way it takes through the product.

One workload that has a secret word wherever a value can be runs on real processes. Every command that Redis
executes, every key and value that it ends up with, and every log are searched for the word.
"""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from guarded import Guarded, GuardedSite, Serve, all_text

from celeriac.celery_app.client.sync import Client

WORD, OTHER = "marzipanmarker", "othermarker"
CODEC = "celeriac.celery_app.encryption:aes_gcm"
KEY = base64.b64encode(bytes(range(32))).decode()
QUEUE = "sealed-orders"


def spellings(word: str) -> list[bytes]:
    """The word as it is, and within base64 at each of the three places where it may begin."""
    coded = [base64.b64encode(b"\0" * n + word.encode())[4 if n else 0 : -4] for n in range(3)]
    return [word.encode(), *coded]


def found(text: bytes, word: str = WORD) -> list[bytes]:
    """What stands around each place where the word is."""
    places = [text.find(each) for each in spellings(word)]
    return [text[max(0, at - 200) : at + 100] for at in places if at >= 0]


class Listener:
    """Everything that a Redis executes, the commands within scripts too, as it says itself (MONITOR)."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._parts: list[bytes] = []
        self._socket.sendall(b"MONITOR\r\n")
        assert self._socket.recv(5) == b"+OK\r\n"
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while data := self._socket.recv(1 << 20):
            self._parts.append(data)

    def heard(self) -> bytes:
        """All of it; ends the listening."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        return b"".join(self._parts)


def contents(client: Any) -> Iterator[tuple[bytes, bytes]]:
    """Every key and value, each with the name of its key."""
    readers = {
        b"string": lambda key: [client.get(key)],
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": lambda key: list(client.smembers(key)),
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"hash": lambda key: [each for pair in client.hgetall(key).items() for each in pair],
    }
    for key in client.scan_iter():
        yield key, key
        for value in readers[client.type(key)](key):
            yield key, value


@pytest.fixture
def guarded(serve: Serve) -> Guarded:
    return serve()


@pytest.fixture
def make(guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes the site, with a codec or without."""
    monkeypatch.setenv("CELERIAC_ENCRYPTION_KEYS", f"k1:{KEY}")
    monkeypatch.setenv("FLOWS_WORD", WORD)
    made: list[GuardedSite] = []

    def site(codec: str) -> GuardedSite:
        one = GuardedSite(tmp_path, {"client": f"redis://127.0.0.1:{guarded.port}/0"}, "flows_of_sealing")
        one.client.close()
        one.settings = replace(one.settings, codec=codec)
        one.client = Client(settings=one.settings)
        made.append(one)
        return one

    try:
        yield site
    finally:
        for one in made:
            one.close()


def start_all(site: GuardedSite) -> None:
    for words in (
        ("o", "orchestrator", "--log-level", "debug"),
        ("w", "worker", "--pool", "threads", "--concurrency", "4", "--log-level", "debug"),
        ("w", "worker", "--pool", "prefork", "--concurrency", "2", "--log-level", "debug"),
    ):
        site._joined(words[0], lambda words=words: site.start(*words[1:]))


def run_everything(site: GuardedSite) -> dict[str, Any]:
    """Each way that a value can take; what came back in clear."""
    client, word, seen = site.client, WORD, {}
    other = client.start("compensating", word)
    main = client.start("everything", {"word": word, "other": other})
    client.raise_event(main, "go", {"said": word})
    site.until(lambda: (site.folder / "told").exists(), timeout=90)
    progress = client.progress(main)
    seen["progress"] = [(step.progress, [a.message for a in step.failures]) for step in progress.activities]
    seen["custom"] = progress.state.custom_status
    (site.folder / "seen").touch()
    site.until(lambda: client.get(main).run == 1, timeout=90)
    seen["told"] = site.wait(other).output
    client.suspend(main, f"because of {word}")
    seen["reason"] = client.get(main).reason
    client.resume(main, f"no more {word}")
    client.raise_event(main, "later", word * 20_000)
    done = site.wait(main)
    seen["output"], seen["input"], seen["second"] = done.output, done.input, done.custom_status
    seen["history"] = "".join(map(repr, client.history(main)))
    seen["recording"] = client.record(main).to_json()
    cancelled, above = client.start("compensating", word), client.start("parent", word)
    site.until(lambda: len(client.history(above)) > 1 and client.get(f"{above}-child").history_length)
    client.cancel(cancelled, f"not {word}")
    client.terminate(above, f"stop {word}")
    seen["cancelled"] = repr(client.history(cancelled)) if site.wait(cancelled) else ""
    seen["terminated"] = (site.wait(above).reason, site.wait(f"{above}-child").reason)
    failed = client.start("failing", word)
    seen["failure"] = str(site.wait(failed).to_payload()["failure"]["message"])
    client.restart(failed, reason=f"again {word}")
    site.wait(failed)
    seen["restarted"] = client.get(failed).reason
    odd = client.start("odd")
    seen["odd"] = site.until(lambda: (state := client.get(odd)).status == "Suspended" and state.reason)
    client.push(QUEUE, "a plain body")
    seen["poison"] = site.until(lambda: [each.reason for each in client.poison(QUEUE)])
    seen["states"] = [state.to_payload() for state in client.list()]
    return seen


def test_with_a_codec_the_word_is_nowhere_and_everything_comes_back(
    guarded: Guarded, make: Any, tmp_path: Path
) -> None:
    site = make(CODEC)
    listener = Listener(guarded.port)
    start_all(site)
    seen = run_everything(site)
    site.close()
    heard = listener.heard()

    assert b"<sealed:1:" in heard
    assert found(heard) == []
    values = list(contents(guarded.client))
    assert [(key, some) for key, value in values if (some := found(value))] == []
    aside = [v for key, v in values if b":pay:" in key and key != v and v[:1] in b"=z"]
    assert aside == []  # what is compressed in clear would not show the word
    assert found(all_text(tmp_path).encode()) == []
    assert KEY not in all_text(tmp_path)

    large = WORD * 20_000
    assert seen["progress"] == [({"at": WORD}, [f"{WORD} is not there yet"])]
    assert (seen["custom"], seen["second"]) == ({"first": WORD}, {"second": WORD})
    assert seen["told"] == WORD
    output = seen["output"]
    assert (output["word"], output["carried"], output["large"]) == (WORD, large, large)
    inner = output["seen"]
    assert (inner["said"], inner["echo"], inner["shaky"]) == ({"said": WORD}, WORD, {"at": WORD})
    assert inner["map"] == [f"{WORD}{i}" for i in range(30)]
    assert inner["child"] == WORD
    assert inner["failures"] == [f"no {WORD}", WORD, WORD, f"cannot do {WORD}", f"no {WORD}"]
    assert (seen["input"]["word"], WORD in seen["history"], WORD in seen["recording"]) == (WORD, True, True)
    assert seen["reason"] == f"because of {WORD}"
    assert f"was cancelled: not {WORD}" in seen["cancelled"] or f"not {WORD}" in seen["cancelled"]
    assert seen["terminated"] == (f"stop {WORD}", f"stop {WORD}")
    assert (seen["failure"], seen["restarted"]) == (f"cannot do {WORD}", f"again {WORD}")
    assert WORD in seen["odd"]
    assert seen["poison"] == [f"ValueError: a plain body is not {WORD}"]


def test_without_a_codec_the_same_search_finds_the_word(guarded: Guarded, make: Any, tmp_path: Path) -> None:
    site = make("")
    listener = Listener(guarded.port)
    start_all(site)
    run_everything(site)
    site.close()
    assert found(listener.heard())
    assert [key for key, value in contents(guarded.client) if found(value)]
    assert found(all_text(tmp_path).encode())


def test_a_worker_without_the_key_leaves_the_activity_to_one_that_has_it(make: Any, tmp_path: Path) -> None:
    site = make(CODEC)
    site.orchestrator()
    pool = ("worker", "--pool", "threads", "--concurrency", "2")
    keyless = site._joined("w", lambda: site.start(*pool, CELERIAC_CODEC=""))
    instance = site.client.start("child", WORD)

    def failures() -> list[Any]:
        return [attempt for step in site.client.progress(instance).activities for attempt in step.failures]

    (first, *_) = site.until(failures)
    assert first.error_type == "celeriac.orchestrations.errors.SealedPayloadError"
    assert "this process has none; give it the CELERIAC_CODEC" in first.message
    keyless.terminate()
    keyless.wait(30)
    site._joined("w", lambda: site.start(*pool))
    assert site.wait(instance).output == WORD
    assert found(all_text(tmp_path).encode()) == []

    for command in ("status", "history"):
        assert WORD in site.cli(command, instance)
        process = site.start(command, instance, CELERIAC_CODEC="")
        assert process.wait(60) == 0, site.logs()
        shown = (tmp_path / f"{command}-{len(site.running) - 1}.log").read_text()
        assert (WORD in shown, "(sealed)" in shown) == (False, True)
