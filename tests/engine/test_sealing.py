"""A codec in the engine: what is sealed and opened where, and what a process does that has no key."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import keyrings
import pytest

from celeriac.celery_app import retrying
from celeriac.celery_app.doctor.processes import check_codec
from celeriac.celery_app.doctor.report import Report
from celeriac.celery_app.messages import Notes, Step, StepHeader, TaskId
from celeriac.celery_app.sealing import PLAIN, Seal, seal_of
from celeriac.celery_app.settings import Settings
from celeriac.orchestrations import OrchestrationContext
from celeriac.orchestrations.errors import (
    Attempt,
    FailureDetails,
    InvalidArgumentError,
    SealedPayloadError,
    failure_from,
)
from celeriac.orchestrations.history import (
    CancelRequested,
    ExecutionStarted,
    PartOutcome,
    TaskFailed,
    TaskScheduled,
    decode_event,
)

FIRST, ROTATED = (Settings(codec=f"keyrings:{name}") for name in ("first", "rotated"))


@pytest.fixture(autouse=True)
def keyless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab of these tests has no codec of its own."""
    monkeypatch.delenv("ENGINE_CODEC", raising=False)


def failure(text: str) -> FailureDetails:
    try:
        raise KeyError(text)
    except KeyError as error:
        return failure_from(error)


# --- the seal --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        ExecutionStarted(execution="e", instance="i", name="n", input='{"a":"secret"}', reason="a secret"),
        TaskScheduled(seq=1, name="n", input='[["secret"],{}]'),
        TaskFailed(
            seq=1, failure=failure("secret"), attempts=(Attempt(1, 5, "builtins.KeyError", "secret"),)
        ),
        CancelRequested(reason="secret é"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_comes_back_as_it_was_and_shows_nothing_meanwhile(event: Any) -> None:
    seal = seal_of(FIRST)
    text = seal.encode(event)
    assert b"secret" not in text
    assert json.loads(text)  # still JSON, into which scripts splice
    assert seal.decode(text) == event
    assert type(decode_event(text)) is type(event)
    assert PLAIN.encode(event) == PLAIN.encode(PLAIN.decode(PLAIN.encode(event)))
    assert seal.decode(PLAIN.encode(event)) == event  # from before there was a codec


def test_an_outcome_and_a_payload_put_aside() -> None:
    seal = seal_of(FIRST)
    outcome = PartOutcome('"secret"', None, (Attempt(1, 5, "builtins.KeyError", "secret"),))
    assert "secret" not in repr(seal.sealed(outcome))
    assert seal.opened(seal.sealed(outcome)) == outcome
    blob = seal.pack('"secret"' * 1000)
    assert len(blob) < 300  # compressed before it was sealed
    assert seal.unpack(blob) == '"secret"' * 1000
    assert seal.unpack(PLAIN.pack("1")) == "1"
    assert seal.text("@p7") == "@p7"
    sealed = seal.text('"secret"')
    assert seal.text(sealed) == sealed
    assert seal.text(None) is None


def test_keys_are_changed_one_after_the_other() -> None:
    old, both, other = seal_of(FIRST), seal_of(ROTATED), seal_of(Settings(codec="keyrings:other"))
    assert both.clear(old.call('"x"')) == '"x"'
    sealed = both.call('"x"')
    with pytest.raises(SealedPayloadError, match="with the key 'new', and this process has only 'old'"):
        old.clear(sealed)
    with pytest.raises(SealedPayloadError, match="changed, or the key 'new' of this process is another one"):
        other.clear(sealed)
    assert both.name == "keyrings:rotated (keys new, old)"


def test_what_was_changed_or_cut_is_not_opened() -> None:
    seal = seal_of(FIRST)
    blob = seal.pack('"secret"')
    last, nonce = (blob[:n] + bytes((blob[n] ^ 1,)) + blob[n + 1 :] for n in (len(blob) - 1, 8))
    for changed in (last, blob[:20], b"s", nonce):
        with pytest.raises(SealedPayloadError):
            seal.unpack(changed)
    text = seal.call('"secret"')
    for wrong in (text[:-2], text.replace(":1:", ":2:"), text[:20] + "AAAA" + text[24:], "<sealed:1:>"):
        with pytest.raises(SealedPayloadError):
            seal.clear(wrong)


def test_without_a_codec_a_sealed_payload_says_what_to_do() -> None:
    sealed = seal_of(FIRST).call('"x"')
    with pytest.raises(SealedPayloadError, match="this process has none; give it the CELERIAC_CODEC"):
        PLAIN.clear(sealed)
    assert PLAIN.reading.clear(sealed) == sealed
    assert PLAIN.reading.told(f"it was terminated: {seal_of(FIRST).note('secret')}") == (
        "it was terminated: (sealed)"
    )


def test_a_reason_is_not_read_without_its_key() -> None:
    """Code sees why it is cancelled: without the key the turn would not be the same again."""
    data = seal_of(FIRST).encode(CancelRequested(reason="secret"))
    for seal in (PLAIN, seal_of(Settings(codec="keyrings:other"))):
        with pytest.raises(SealedPayloadError):
            seal.decode(data)
        assert seal.reading.decode(data) == CancelRequested(reason="(sealed)")
    for told in ("no <sealed:1:AAAA> token", "<sealed:1:>"):
        assert PLAIN.decode(PLAIN.encode(CancelRequested(reason=told))) == CancelRequested(reason=told)


def test_an_error_message_that_looks_sealed_is_a_message() -> None:
    """Else whoever can make an activity fail could keep an instance from going on."""
    told = seal_of(FIRST).note("secret")
    plain = TaskFailed(seq=1, failure=failure_from(ValueError(told)))
    assert PLAIN.decode(PLAIN.encode(plain)) == plain
    forged = TaskFailed(
        seq=1,
        failure=failure_from(ValueError("<sealed:1:AAAA>")),
        attempts=(Attempt(1, 5, "builtins.ValueError", "<sealed:1:AAAA>"),),
    )
    for seal in (PLAIN, seal_of(FIRST)):
        assert seal.decode(PLAIN.encode(forged)) == forged
        assert seal.decode(seal.encode(forged)) == forged


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("keyrings:nothing", "AttributeError"),
        ("no_such_module:make", "ModuleNotFoundError"),
        ("keyrings:backwards", "does not open what it has sealed"),
        ("json:JSONDecoder", "must name a function without arguments"),
    ],
)
def test_a_codec_that_cannot_be_used_is_refused(spec: str, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        seal_of(Settings(codec=spec))


@pytest.mark.parametrize("spec", ["keyrings", "keyrings:", ":first", "a b:c"])
def test_a_codec_that_is_not_named_as_one_is_refused(spec: str) -> None:
    with pytest.raises(InvalidArgumentError, match="must be module:factory"):
        Settings(codec=spec)


# --- in the engine ---------------------------------------------------------------------------------


def sealed_lab(lab: Any, codec: str = "keyrings:first", **more: Any) -> Any:
    """The same hub and workflows, for processes with a codec."""
    return type(lab)(replace(lab.settings, codec=codec, **more), lab.store, lab.registry, lab.activities)


def flows(lab: Any) -> Any:
    @lab.activity
    def add(a: int, b: int) -> int:
        if a < 0:
            raise ValueError(f"{a} is below zero")
        return a + b

    @lab.orchestrator
    async def adding(ctx: OrchestrationContext, n: int) -> list[int]:
        ctx.set_custom_status(n)
        first = await ctx.call_activity(add, n, 1)
        await ctx.wait_for_external_event("go")
        return [first, *await ctx.map(add, []), await ctx.call_activity(add, first, 1)]

    return adding


def test_a_codec_is_given_to_a_hub_with_work_in_it_and_taken_away_again(lab: Any) -> None:
    adding, sealed, opening = flows(lab), sealed_lab(lab), sealed_lab(lab, codec_seals=False)
    worker, pump = lab.work(), lab.pump()
    before = lab.client.start(adding, 1)
    lab.until(lambda: "TaskCompleted" in lab.kinds(before))
    lab.halt(worker)
    pump.stop()
    lab.pumps.clear()
    try:
        worker = sealed.work()
        sealed.pump()
        between = sealed.client.start(adding, 10)
        for instance in (before, between):
            sealed.client.raise_event(instance, "go")
        assert sealed.client.wait(before, timeout=30).output == [2, 3]
        after = sealed.client.start(adding, 20)
        sealed.until(lambda: "TaskCompleted" in sealed.kinds(after))
        assert b"<sealed:1:" in lab.store.client.lindex(lab.store.keys.hist(before), -1)
        sealed.close()
        opening.work()
        opening.pump()
        opening.client.raise_event(after, "go")
        assert opening.client.wait(after, timeout=30).output == [21, 22]
        assert b"<sealed:1:" not in lab.store.client.lindex(lab.store.keys.hist(after), -1)
        assert b"<sealed:1:" in lab.store.client.lindex(lab.store.keys.hist(after), 0)
    finally:
        sealed.close()
        opening.close()


def test_an_orchestrator_without_the_key_leaves_the_instance_to_one_that_has_it(lab: Any) -> None:
    adding, sealed = flows(lab), sealed_lab(lab)
    lab.work()
    instance = sealed.client.start(adding, 1)
    sealed.client.raise_event(instance, "go")
    state = lab.until(lambda: (s := lab.client.get(instance)).waiting and s)
    assert "this process has none; give it the CELERIAC_CODEC" in state.waiting
    assert state.history_length == 0
    with pytest.raises(SealedPayloadError, match="CELERIAC_CODEC"):
        _ = state.input
    for worker, _ in list(lab.workers):
        lab.halt(worker)
    try:
        sealed.up()
        assert sealed.client.wait(instance, timeout=30).output == [2, 3]
    finally:
        sealed.close()


def test_who_looks_without_the_key_sees_that_it_is_sealed(lab: Any) -> None:
    adding, sealed = flows(lab), sealed_lab(lab, aside_over=256)
    try:
        sealed.up()
        failed = sealed.client.start(adding, -5)
        sealed.client.wait(failed, timeout=30)
        seen = lab.client.get(failed)
        assert seen.failure is not None
        assert (seen.failure.error_type, seen.failure.message) == (
            "celeriac.orchestrations.errors.TaskFailedError", "(sealed)",
        )  # fmt: skip
        payload = seen.to_payload()
        assert (payload["input"], payload["customStatus"]) == ("(sealed)", "(sealed)")
        assert lab.kinds(failed) == sealed.kinds(failed)
        assert [s.id for s in lab.client.list()] == [failed]
        with pytest.raises(SealedPayloadError):
            lab.client.record(failed)
        assert sealed.client.get(failed).input == -5
        assert "-5 is below zero" in repr(sealed.client.record(failed))
    finally:
        sealed.close()


def test_what_cannot_be_sealed_is_not_written_and_its_turn_waits(
    lab: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adding, moody = flows(lab), sealed_lab(lab, "keyrings:Moody")
    instance = moody.client.start(adding, 1)
    monkeypatch.setattr(keyrings.Moody, "bad", True)
    with pytest.raises(SealedPayloadError, match=r"keyrings:Moody could not seal: ConnectionError$"):
        moody.client.start(adding, 2)
    try:
        moody.work()
        state = moody.until(lambda: (s := moody.client.get(instance)).waiting and s)
        assert "could not seal: ConnectionError" in state.waiting
        assert state.history_length == 0
        monkeypatch.setattr(keyrings.Moody, "bad", False)
        moody.pump()
        moody.client.raise_event(instance, "go")
        assert moody.client.wait(instance, timeout=60).output == [2, 3]
        assert "no key server" not in caplog.text
    finally:
        moody.close()


def test_an_activity_without_the_key_is_offered_to_others_for_a_minute() -> None:
    task = TaskId("0" * 16, 1, 1, "i")
    missing = failure_from(SealedPayloadError("no key"))
    again = retrying.judge(Step(task, "a", "", StepHeader()), missing, 1000)
    assert again is not None
    assert (again.delay, again.notes.unknown, again.notes.spared) == (5000, 1000, 1)
    late = StepHeader(notes=Notes(unknown=1000))
    assert retrying.judge(Step(task, "a", "", late), missing, 61_000) is None
    assert seal_of(FIRST).sealed(TaskFailed(seq=1, failure=missing)).failure == missing  # to be read by all


def process(codec: str) -> Any:
    class Info:
        kind, info = "worker", {"pid": 7, "lists": {}, "codec": codec}

    return Info()


@pytest.mark.parametrize(
    ("settings", "theirs", "level", "text"),
    [
        (Settings(), "", "ok", "in clear"),
        (FIRST, "keyrings:first (keys old)", "ok", "sealed by keyrings:first"),
        (FIRST, "", "warn", "none: worker 7"),
        (FIRST, "keyrings:rotated (keys new, old)", "warn", "the others may not be able to open"),
        (replace(FIRST, codec_seals=False), "keyrings:first (keys old)", "warn", "only opens"),
        (Settings(codec="keyrings:nothing"), "", "refuse", "cannot be used"),
    ],
)
def test_doctor_looks_at_the_codecs_of_a_hub(settings: Settings, theirs: str, level: str, text: str) -> None:
    report = Report()
    check_codec(report, settings, [process(theirs)])
    (check,) = report.checks
    assert (check.level, text in check.text) == (level, True)


def test_a_seal_that_only_opens_hides_nothing_in_logs() -> None:
    assert seal_of(FIRST).masked("secret") == "(sealed)"
    assert seal_of(replace(FIRST, codec_seals=False)).masked("secret") == "secret"
    assert "secret" not in seal_of(FIRST).trace(ValueError("secret"))
    assert "secret" in Seal().trace(ValueError("secret"))
