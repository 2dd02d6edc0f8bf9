"""What becomes of an activity's outcome, by real workers of all three pools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from celeriac.celery_app.messages import Notes, TaskId
from celeriac.celery_app.store import payloads
from celeriac.orchestrations.errors import (
    ActivityTimeoutError,
    ActivityWorkerLostError,
    CodecError,
    NonRetryableError,
    PayloadTooLargeError,
    UnknownActivityError,
)
from celeriac.orchestrations.history import GroupCompleted, TaskCompleted, TaskFailed
from celeriac.orchestrations.retry import RetryPolicy

POOLS = ("prefork", "threads", "solo")
QUICK = timedelta(milliseconds=100)


@pytest.fixture(scope="module")
def pools(workers: Any, bench: Any) -> Iterator[dict[str, str]]:
    """A worker of each pool; the queue it serves."""
    queues = {pool: f"{bench.settings.queue}.{pool}" for pool in POOLS}
    started = [workers.start(pool, "-Q", queue, wait=False) for pool, queue in queues.items()]
    for process in started:
        workers.wait_ready(process)
    yield queues
    results = list(bench.store.client.scan_iter("celery-task-meta-*"))
    assert not [key for key in results if TaskId.parse(key.decode().removeprefix("celery-task-meta-"))]


def policy(**more: Any) -> str:
    return RetryPolicy(QUICK, **more).to_json()


@pytest.mark.parametrize("pool", POOLS)
def test_success(bench: Any, pools: dict[str, str], pool: str) -> None:
    execution = bench.call(f"s-{pool}", "add", "[[1,2],{}]", queue=pools[pool])
    event = bench.outcome(f"s-{pool}")
    assert event == TaskCompleted(seq=1, result="3", at=event.at)
    assert bench.open(execution) == {}


@pytest.mark.parametrize("pool", POOLS)
def test_an_async_activity(bench: Any, pools: dict[str, str], pool: str) -> None:
    bench.call(f"as-{pool}", "add_later", '[[1],{"b":2}]', queue=pools[pool])
    assert bench.outcome(f"as-{pool}").result == "3"


@pytest.mark.parametrize("pool", POOLS)
def test_failure_carries_the_authors_own_traceback(bench: Any, pools: dict[str, str], pool: str) -> None:
    bench.call(f"f-{pool}", "fail", '[["value"],{}]', queue=pools[pool])
    event = bench.outcome(f"f-{pool}")
    assert isinstance(event, TaskFailed)
    assert (event.failure.error_type, event.failure.message) == ("builtins.ValueError", "no such thing")
    assert "acts.py" in event.failure.stack_trace
    assert "task.py" not in event.failure.stack_trace
    assert event.failure.is_caused_by(Exception)
    assert event.attempts == ()


@pytest.mark.parametrize("pool", POOLS)
def test_retries_are_parked_in_redis_and_end_with_their_attempts(
    bench: Any, pools: dict[str, str], pool: str, tmp_path: Path
) -> None:
    log = tmp_path / "runs"
    call = json.dumps([["value", str(log)], {}])
    bench.call(f"r-{pool}", "fail", call, queue=pools[pool], retry=policy(max_number_of_attempts=3))
    event = bench.outcome(f"r-{pool}")
    assert isinstance(event, TaskFailed)
    assert log.read_text() == "xxx"
    assert [(a.number, a.error_type, a.delay) for a in event.attempts] == [
        (1, "builtins.ValueError", 100),
        (2, "builtins.ValueError", 100),
    ]
    first, second = (a.at for a in event.attempts)
    assert second - first >= 100
    assert event.at - second >= 100


@pytest.mark.parametrize("pool", POOLS)
def test_a_retry_is_one_line_in_the_log_and_the_last_failure_an_error_with_its_traceback(
    bench: Any, workers: Any, pools: dict[str, str], pool: str
) -> None:
    instance, process = f"told-{pool}", workers.running[POOLS.index(pool)]
    before = len(workers.log(process))
    call, retry = '[["value"],{}]', policy(max_number_of_attempts=2)
    bench.call(instance, "fail", call, queue=pools[pool], retry=retry)
    bench.outcome(instance)
    error = "builtins.ValueError: no such thing"

    def written() -> str:
        log = workers.log(process)[before:]
        return log if log.count(instance) and "raise errors[kind]" in log else ""

    log = bench.wait_for(written)
    (retried,) = [line for line in log.splitlines() if f"attempt 1 of fail for instance {instance}" in line]
    assert "WARNING" in retried
    assert f"({error}); the next one follows in 0.1 s" in retried
    (last,) = [line for line in log.splitlines() if f"attempt 2 of fail for instance {instance}" in line]
    assert "ERROR" in last
    assert last.endswith(f"was the last: {error}")
    assert log.count("raise errors[kind]") == 1
    assert "raised unexpected" not in log


def test_the_log_of_a_last_failure_shows_what_caused_it(
    bench: Any, workers: Any, pools: dict[str, str]
) -> None:
    process = workers.running[POOLS.index("threads")]
    before = len(workers.log(process))
    bench.call("caused", "unencodable", "[[],{}]", queue=pools["threads"])
    inner = bench.outcome("caused").failure.inner
    bench.wait_for(lambda: f"caused by {inner.error_type}: {inner.message}" in workers.log(process)[before:])


@pytest.mark.parametrize("kind", ["ignore", "reject", "exit", "memory"])
@pytest.mark.parametrize("pool", POOLS)
def test_what_means_something_to_celery_is_an_ordinary_failure(
    bench: Any, pools: dict[str, str], pool: str, kind: str
) -> None:
    bench.call(f"{kind}-{pool}", "fail", f'[["{kind}"],{{}}]', queue=pools[pool])
    event = bench.outcome(f"{kind}-{pool}")
    assert isinstance(event, TaskFailed)
    assert event.failure.is_caused_by(
        {"ignore": "Ignore", "reject": "Reject", "exit": SystemExit, "memory": MemoryError}[kind]
    )


def test_sys_exit_in_an_async_activity_is_a_failure_and_the_loop_lives(
    bench: Any, pools: dict[str, str]
) -> None:
    bench.call("quit", "quit_later", "[[],{}]", queue=pools["solo"])
    assert bench.outcome("quit").failure.is_caused_by(SystemExit)
    bench.call("quit2", "add_later", "[[1,2],{}]", queue=pools["solo"])
    assert bench.outcome("quit2").result == "3"


def test_an_exception_without_a_decent_text_still_travels(bench: Any, pools: dict[str, str]) -> None:
    bench.call("awkward", "awkward", '[["text"],{}]', queue=pools["threads"])
    failure = bench.outcome("awkward").failure
    assert failure.is_caused_by("Awkward")
    assert "KeyError" in failure.message
    assert failure.properties["b"] == [1, 2]
    bench.call("half", "awkward", '[["half"],{}]', queue=pools["threads"])
    assert bench.outcome("half").failure.message == "half \\udcff"


def test_a_call_that_was_put_aside_is_fetched(bench: Any, pools: dict[str, str]) -> None:
    execution = bench.start("aside")
    text = json.dumps([["y" * 100_000], {}])
    keys = bench.store.keys
    bench.store.client.hset(keys.pay(execution), "a1", payloads.pack(text))
    step = bench.step("aside", execution, "echo", "@a1", queue=pools["prefork"])
    bench.commit("aside", execution, messages=[step])
    reference = bench.outcome("aside").result
    (blob,) = bench.store.run(payloads.fetch(keys, execution, [reference[1:]]))
    assert payloads.unpack(blob) == json.dumps("y" * 100_000)


def test_limits_are_armed_while_the_activity_runs_and_gone_afterwards(
    bench: Any, pools: dict[str, str], tmp_path: Path
) -> None:
    call = json.dumps([[0.5, str(tmp_path / "log")], {}])
    execution = bench.call("armed", "sleep", call, queue=pools["threads"], timeout=60_000, heartbeat=30_000)
    bench.wait_for((tmp_path / "log").exists)
    client, keys = bench.store.client, bench.store.keys
    members = [m.decode() for m in client.zrange(keys.deadlines, 0, -1)]
    task = f"{execution}:1:1:armed"
    assert sorted(m for m in members if task in m) == [f"c:{task}", f"h:{task}"]
    bench.outcome("armed")
    assert not [m for m in client.zrange(keys.deadlines, 0, -1) if task.encode() in m]


def test_non_retryable_ends_at_once(bench: Any, pools: dict[str, str]) -> None:
    bench.call("never", "fail", '[["never"],{}]', queue=pools["threads"], retry=policy())
    event = bench.outcome("never")
    assert event.failure.is_caused_by(NonRetryableError)
    assert event.attempts == ()


def test_retry_after_overrides_the_delay(bench: Any, pools: dict[str, str]) -> None:
    retry = RetryPolicy(timedelta(hours=1), max_number_of_attempts=2).to_json()
    bench.call("later", "fail", '[["later"],{}]', queue=pools["threads"], retry=retry)
    assert [a.delay for a in bench.outcome("later").attempts] == [50]


def test_a_handler_decides_and_a_slow_one_is_not_waited_for(bench: Any, pools: dict[str, str]) -> None:
    for name, attempts in (("refuse", 0), ("slow_handler", 1)):
        retry = policy(max_number_of_attempts=2, handler=f"acts:{name}")
        bench.call(name, "fail", '[["value"],{}]', queue=pools["threads"], retry=retry)
        assert len(bench.outcome(name).attempts) == attempts


def test_the_context_knows_the_step(bench: Any, pools: dict[str, str]) -> None:
    bench.call("about", "about", "[[],{}]", queue=pools["prefork"], timeout=60_000, heartbeat=30_000, seq=4)
    assert json.loads(bench.outcome("about").result) == ["about", 4, 1, "about", False, True]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_next_attempt_finds_what_the_last_heartbeat_told(
    bench: Any, pools: dict[str, str], pool: str
) -> None:
    retry, tags = policy(max_number_of_attempts=2), {"of": "us"}
    execution = bench.call(f"half-{pool}", "resumes", "[[],{}]", queue=pools[pool], retry=retry, tags=tags)
    assert json.loads(bench.outcome(f"half-{pool}").result) == [{"row": 2}, {"row": 2}, tags]
    assert bench.open(execution) == {}


def test_a_heartbeat_that_tells_too_much_fails_clearly(bench: Any, pools: dict[str, str]) -> None:
    bench.call("much", "tells_too_much", "[[],{}]", queue=pools["threads"])
    failure = bench.outcome("much").failure
    assert failure.is_caused_by(PayloadTooLargeError)
    assert "'tells_too_much'" in failure.message


def test_large_results_are_put_aside_and_too_large_ones_refused(bench: Any, pools: dict[str, str]) -> None:
    execution = bench.call("big", "big", "[[100000],{}]", queue=pools["prefork"])
    event = bench.outcome("big")
    assert event.result.startswith("@")
    (blob,) = bench.store.run(payloads.fetch(bench.store.keys, execution, [event.result[1:]]))
    assert payloads.unpack(blob) == json.dumps("x" * 100_000)
    bench.call("huge", "big", "[[9000000],{}]", queue=pools["prefork"], retry=policy())
    failure = bench.outcome("huge").failure
    assert failure.is_caused_by(PayloadTooLargeError)
    assert "'big'" in failure.message


def test_a_result_that_is_no_json_is_named(bench: Any, pools: dict[str, str]) -> None:
    bench.call("unencodable", "unencodable", "[[],{}]", queue=pools["prefork"], retry=policy())
    failure = bench.outcome("unencodable").failure
    assert failure.is_caused_by(CodecError)
    assert "unencodable" in failure.message


def test_arguments_of_the_wrong_type_are_named(bench: Any, pools: dict[str, str]) -> None:
    bench.call("wrong", "add", '[["x",2],{}]', queue=pools["prefork"], retry=policy())
    assert bench.outcome("wrong").failure.is_caused_by(CodecError)


def test_a_group_joins_once_although_parts_come_twice(bench: Any, pools: dict[str, str]) -> None:
    calls = [("add", f"[[{i},1],{{}}]") for i in range(6)] + [("fail", '[["value"],{}]')]
    execution = bench.group("group", calls, queue=pools["prefork"])
    # A redelivered part, and a part that was duplicated while it ran.
    for _ in range(2):
        step = bench.step("group", execution, *calls[2], seq=3, queue=pools["threads"],
                          group=bench.group_ref(execution, 2, 7))  # fmt: skip
        bench.store.client.lpush(step.queue_key, step.message)
    event = bench.outcome("group")
    assert event == GroupCompleted(seq=1, failed=1, at=event.at)
    parts = bench.parts(execution)
    assert [json.loads(part[1:]).get("result") for part in parts[:6]] == [str(i + 1) for i in range(6)]
    assert b"no such thing" in parts[6]
    assert len(bench.inbox("group")) == 1


def test_a_part_is_retried_before_its_group_joins(bench: Any, pools: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "deaths"
    calls = [("add", "[[1,1],{}]"), ("fail", json.dumps([["value", str(log)], {}]))]
    bench.group("rgroup", calls, queue=pools["threads"], retry=policy(max_number_of_attempts=2))
    assert bench.outcome("rgroup").failed == 1
    assert log.read_text() == "xx"


def test_a_process_that_dies_is_a_retryable_loss(bench: Any, pools: dict[str, str], tmp_path: Path) -> None:
    call = json.dumps([[str(tmp_path / "log"), 1], {}])
    bench.call("dies", "die", call, queue=pools["prefork"])
    event = bench.outcome("dies", 30)
    assert event.result == "2"
    assert [a.error_type.rpartition(".")[2] for a in event.attempts] == ["ActivityWorkerLostError"]


def test_a_signal_that_ends_the_process_is_no_exit_of_the_activity(
    bench: Any, pools: dict[str, str], tmp_path: Path
) -> None:
    bench.call("signal", "terminated", json.dumps([[str(tmp_path / "log")], {}]), queue=pools["prefork"])
    event = bench.outcome("signal", 30)
    assert event.result == '"again"'
    assert [a.error_type.rpartition(".")[2] for a in event.attempts] == ["ActivityWorkerLostError"]


def test_processes_that_die_again_and_again_end_in_a_clear_failure(
    bench: Any, pools: dict[str, str], tmp_path: Path
) -> None:
    call = json.dumps([[str(tmp_path / "log"), 99], {}])
    bench.call("dies-on", "die", call, queue=pools["prefork"], notes=Notes(lost=3, spared=3))
    event = bench.outcome("dies-on", 30)
    assert event.failure.is_caused_by(ActivityWorkerLostError)
    assert "os._exit" in event.failure.message


def test_the_deaths_of_whole_workers_and_of_children_are_one_count(
    bench: Any, pools: dict[str, str], tmp_path: Path
) -> None:
    """The store counts workers, the message children: a child that dies after three workers is the last."""
    call = json.dumps([[str(tmp_path / "log"), 99], {}])
    execution = bench.call("mixed", "die", call, queue=f"{pools['prefork']}.nobody")
    client, key = bench.store.client, bench.settings.queue_key(f"{pools['prefork']}.nobody")
    client.hset(bench.store.keys.open(execution), "1", f"1|q|1|{key}||l3")
    client.rpoplpush(key, bench.settings.queue_key(pools["prefork"]))
    event = bench.outcome("mixed", 30)
    assert event.failure.is_caused_by(ActivityWorkerLostError)
    assert (tmp_path / "log").read_text() == "x"
    assert event.attempts == ()


def test_the_soft_limit_shows_where_the_activity_was(bench: Any, pools: dict[str, str]) -> None:
    bench.call("soft", "sleep", "[[60],{}]", queue=pools["prefork"], timeout=1000)
    failure = bench.outcome("soft").failure
    assert failure.is_caused_by(ActivityTimeoutError)
    assert failure.message == "the activity sleep ran longer than its timeout of 1 s"
    assert "time.sleep" in failure.stack_trace


def test_the_hard_limit_ends_what_does_not_stop(bench: Any, pools: dict[str, str], tmp_path: Path) -> None:
    call = json.dumps([[str(tmp_path / "log")], {}])
    bench.call("hard", "hang", call, queue=pools["prefork"], timeout=1000)
    failure = bench.outcome("hard", 30).failure
    assert failure.is_caused_by(ActivityTimeoutError)
    assert failure.message.startswith("the activity hang ran longer than its timeout of 1 s")
    bench.call("after", "add", "[[1,2],{}]", queue=pools["prefork"])
    assert bench.outcome("after").result == "3"


def test_an_unknown_activity_is_parked_and_at_last_a_failure(bench: Any, pools: dict[str, str]) -> None:
    execution = bench.call("unknown", "nobody.knows", "[[],{}]", queue=pools["prefork"])
    bench.wait_for(lambda: bench.open(execution).get("1", "").startswith("2|p"))
    assert "nobody.knows" in bench.open(execution)["f1"]
    bench.call("unknown2", "nobody.knows", "[[],{}]", queue=pools["prefork"], notes=Notes(unknown=1))
    failure = bench.outcome("unknown2").failure
    assert failure.is_caused_by(UnknownActivityError)
    assert "--app" in failure.message


def test_plain_tasks_of_the_user_keep_celerys_own_results(bench: Any, pools: dict[str, str]) -> None:
    app = bench.app
    result = app.send_task("plain.add", (1, 2), queue=pools["prefork"], task_id="plain-1")
    assert result.get(timeout=20) == 3
    assert bench.store.client.exists("celery-task-meta-plain-1")
