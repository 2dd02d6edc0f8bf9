"""What people see: the words of durations, states, histories and trees, at any width."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from celeriac.celery_app.client.progress import (
    ActivityProgress,
    GroupProgress,
    InstanceProgress,
    ProcessInfo,
    StepState,
    TimerProgress,
)
from celeriac.celery_app.client.queues import PoisonMessage
from celeriac.celery_app.client.state import OrchestrationState, Status, iso
from celeriac.cli import histories, render, trees
from celeriac.orchestrations import history as kinds
from celeriac.orchestrations.errors import Attempt, FailureDetails

NOW = datetime.now(UTC)


def shown(what: RenderableType, width: int = 80) -> str:
    out = Console(file=io.StringIO(), width=width, highlight=False)
    out.print(what)
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    return text


def state(name: str = "order-1", status: Status = Status.RUNNING, **more: Any) -> OrchestrationState:
    created = NOW - timedelta(seconds=90)
    return OrchestrationState(
        id=name, name="fulfil_order", status=status, created_at=created, updated_at=NOW, **more
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 ms"),
        (0.84, "840 ms"),
        (12.34, "12.3 s"),
        (245, "4 min 05 s"),
        (7500, "2 h 05 min"),
        (266400, "3 d 02 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert render.duration(seconds) == words
    assert render.duration(timedelta(seconds=seconds)) == words


def test_a_state_says_only_what_there_is() -> None:
    out = Console(file=io.StringIO(), width=60)
    render.show_state(
        out, state("order-1", Status.COMPLETED, version="2", tags={"shop": "a"}, custom_text='"paid"')
    )
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    for words in ("order-1", "fulfil_order (version 2)", "✓ Completed", "shop=a", '"paid"', "1 min 30 s"):
        assert words in text
    assert "Failure" not in text
    assert "Output" not in text


def test_a_failure_shows_what_it_came_from() -> None:
    failure = FailureDetails(
        error_type="shop.DeclinedError",
        message="no [money]",
        inner=FailureDetails(error_type="builtins.OSError"),
    )
    text = render.failure_text(failure).plain
    assert text == "shop.DeclinedError: no [money]\nfrom builtins.OSError: "


def frame(path: object, line: str, name: str = "f") -> str:
    return f'  File "{path}", line 7, in {name}\n    {line}\n    ^^^^^^^^\n'


def test_a_failure_shows_the_authors_own_lines() -> None:
    ours = Path(render.__file__).resolve().parents[1]
    called = (
        frame("/app/celeriac/shop.py", "outer()")
        + frame("/app/celeriac/shop.py", "await ctx.call_activity(pay)", "order")
        + frame(
            "/usr/lib/python3.12/site-packages/celeriac/orchestrations/tasks.py", "return self._outcome()"
        )
        + frame(ours / "orchestrations" / "tasks.py", "raise self._error()")
    )
    raised = (
        frame("/v/lib/python3.12/site-packages/celery/app/trace.py", "R = fun(*args)")
        + frame("/w/.venv/links/celeriac/activities/runner.py", "activity.function(*args)")
        + frame("/app/shop.py", "return json.loads(answer)", "pay")
        + frame("/usr/lib/python3.12/json/__init__.py", "return _default_decoder.decode(s)")
        + frame("/usr/lib/python3.12/json/decoder.py", "obj, end = self.raw_decode(s)")
        + frame("/usr/lib/python3.12/json/decoder.py", "raise JSONDecodeError(s)")
    )
    inner = FailureDetails(error_type="json.JSONDecodeError", message="no", stack_trace=raised)
    failure = FailureDetails(error_type="a.TaskFailedError", message="m", stack_trace=called, inner=inner)
    lines = [line.strip() for line in render.failure_text(failure).plain.splitlines()]
    assert [line for line in lines if not line.startswith(("File", "^"))] == [
        "a.TaskFailedError: m",
        "outer()",
        "await ctx.call_activity(pay)",
        "from json.JSONDecodeError: no",
        "return json.loads(answer)",
        "raise JSONDecodeError(s)",
    ]


def test_a_stack_without_an_authors_line_is_still_shown() -> None:
    engine = frame("/v/site-packages/celeriac/orchestrations/tasks.py", "raise Lost")
    assert render.author_frames("cut off\n" + engine) == [engine.rstrip()]
    assert render.author_frames("") == []
    shipped = frame("/v/site-packages/celeriac/orchestrations/examples/fulfil_order.py", "raise Declined")
    assert render.author_frames(shipped + engine) == [shipped.rstrip()]


def test_a_list_keeps_ids_whole_when_it_is_narrow() -> None:
    long = "a-rather-long-instance-id-that-somebody-chose-" + "x" * 20
    text = shown(render.state_table([state(long), state(status=Status.FAILED)]), 80)
    assert long in "".join(line.split("  ")[0] for line in text.splitlines())


def test_poison_messages_are_shown_as_json() -> None:
    told = {"queue": "orders", "reason": "no id", "tries": 3, "since": NOW}
    messages = [
        PoisonMessage(message={"id": None, "ok": True}, **told),
        PoisonMessage(message="{'a'", **told),
    ]
    text = shown(render.poison_table(messages), 120)
    assert '{"id": null, "ok": true}' in text
    assert "\"{'a'\"" in text


def test_a_tree_shows_fan_outs_retries_and_children() -> None:
    retrying = ActivityProgress(
        seq=4,
        name="take_payment",
        attempt=3,
        state=StepState.RETRYING,
        retry_at=NOW + timedelta(seconds=30),
        failures=(Attempt(1, 0, "shop.SilentError", "no answer\nat all"),),
    )
    running = tuple(
        ActivityProgress(seq=n, name=f"copy-{n}", attempt=1, state=StepState.RUNNING, since=NOW)
        for n in range(20)
    )
    child = InstanceProgress(state=state("order-1:0003", custom_text='"[bold]"'), activities=running)
    progress = InstanceProgress(
        state=state(),
        activities=(retrying,),
        groups=(GroupProgress(seq=9, name="store_file", size=10_000, done=2_500, failed=2),),
        timers=(TimerProgress(seq=1, due=NOW + timedelta(days=3)),),
        children=(child,),
    )
    text = shown(trees.tree_of(progress), 80)
    assert "████░" in text
    assert "2,500/10,000  2 failed" in text
    assert "take_payment again in " in text
    assert "attempt 3; SilentError: no answer" in text
    assert "order-1:0003" in text
    assert '"[bold]"' in text, "values are not taken for markup"
    assert "and 12 running" in text
    assert shown(trees.tree_of(progress), 40)

    seen: dict[str, str] = {}
    lines = list(trees.changes(progress, seen))
    assert "order-1 store_file 2500/10000 done, 2 failed" in lines
    assert "order-1 take_payment retrying, attempt 3 after shop.SilentError: no answer …" in lines
    assert list(trees.changes(progress, seen)) == [], "nothing that only ticks is repeated"


def test_a_tree_of_many_children_fits_the_screen() -> None:
    children = tuple(InstanceProgress(state=state(f"child-{n}")) for n in range(100))
    text = shown(trees.tree_of(InstanceProgress(state=state(), children=children), height=20))
    assert len(text.splitlines()) <= 22
    assert "more children" in text


def test_the_status_of_a_parent_says_why_its_child_waits() -> None:
    child = InstanceProgress(state=state("order-1:0003", waiting="no worker serves 'ship'"))
    steps = trees.steps_of(InstanceProgress(state=state(), children=(child,)))
    assert steps is not None
    out = Console(file=io.StringIO(), width=120)
    with out.capture() as captured:
        render.show_state(out, state(), steps)
    text = captured.get()
    assert "order-1:0003" in text
    assert "no worker serves 'ship'" in text
    assert trees.steps_of(InstanceProgress(state=state())) is None


def test_a_reason_that_is_also_what_it_waits_for_is_said_once() -> None:
    reason = "its code blocked at flows.py:7; deploy mended code"
    out = Console(file=io.StringIO(), width=100)
    render.show_state(out, state(status=Status.SUSPENDED, reason=reason, waiting=reason))
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue().count(reason) == 1


def test_a_list_shows_the_error_that_says_most() -> None:
    cause = FailureDetails(error_type="builtins.RuntimeError", message="no running event loop")
    wrong = FailureDetails(error_type="builtins.TypeError", message="use ctx.create_timer", inner=cause)
    step = FailureDetails(error_type="celeriac.orchestrations.errors.TaskFailedError", inner=wrong)
    for failure in (wrong, step):
        assert render.short_failure(failure) == "TypeError: use ctx.create_timer"


def test_processes_as_json_have_one_spelling() -> None:
    lists = {"priority_steps": [0, 3], "queue": "q"}
    at = NOW.replace(microsecond=0)
    started = int(at.timestamp() * 1000)
    worker = {"hostname": "worker-7@box", "pid": 7, "started": started, "lists": lists}
    payload = ProcessInfo(incarnation="w1", kind="worker", lapses_at=at, info=worker).to_payload()
    assert payload == {
        "incarnation": "w1", "kind": "worker", "pid": 7, "host": "box", "node": "worker-7@box",
        "startedAt": iso(at), "lapsesAt": iso(at), "lists": {"prioritySteps": [0, 3], "queue": "q"},
    }  # fmt: skip


def test_a_history_reads_like_a_story(capsys: pytest.CaptureFixture[str]) -> None:
    at = int(NOW.timestamp() * 1000)
    failure = FailureDetails(error_type="builtins.ValueError", message="no")
    events: list[kinds.AnyEvent] = [
        kinds.ExecutionStarted(execution="e", instance="i", name="fulfil_order", input='{"a": 1}', at=at),
        kinds.TaskScheduled(seq=0, name="take_payment", input='[["x"],{}]', at=at),
        kinds.TaskCompleted(seq=0, result="7", at=at + 1500, attempts=(Attempt(1, at, "E", "m"),)),
        kinds.GroupScheduled(seq=1, size=3, name="copy", parts="@p1", at=at + 1500),
        kinds.GroupCompleted(seq=1, failed=1, at=at + 2000),
        kinds.ExecutionFailed(failure=failure, at=at + 2000),
    ]
    histories.show(events)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for words in (
        'fulfil_order {"a": 1}',
        "  TaskScheduled",
        '#0 take_payment [["x"],{}]',
        "#0 take_payment → 7 (after 1 failed attempt)",
        "+1.5 s",
        "#1 copy 3 parts",
        "#1 copy 1 failed",
        "ValueError: no",
    ):
        assert words in out
    payload = histories.to_payload(events[2])
    assert payload["type"] == "TaskCompleted"
    assert payload["timestamp"].endswith("Z")
    assert kinds.decode_event(json.dumps(payload)) == events[2], "the JSON can be replayed"
