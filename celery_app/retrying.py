"""What becomes of a failed attempt: parked for another try, or the end of the step. Knows no Celery.

Used by the worker that saw the failure (see backend.py) and by whoever finds an attempt past its
deadline. `judge` asks the retry policy and its handler; `failed` makes the one store call that carries
the verdict out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

import msgspec

from celeriac.orchestrations.errors import (
    ActivityWorkerLostError,
    Attempt,
    AuthoringError,
    FailureDetails,
    PayloadTooLargeError,
    SealedPayloadError,
    UnknownActivityError,
)
from celeriac.orchestrations.history import ActivityOptions, PartOutcome, TaskCompleted, TaskFailed
from celeriac.orchestrations.retry import RetryContext, RetryPolicy, decide

from .messages import GroupRef, Notes, Step
from .sealing import PLAIN, Seal
from .store import Call, Keys, steps
from .store.flights import MAX_LOST

__all__ = ["Again", "MessageMaker", "failed", "judge", "succeeded"]

logger = logging.getLogger("celeriac.activity")

HANDLER_LIMIT: Final = 2.0  # seconds an author's retry handler may take
LOST_DELAY: Final = 1000  # milliseconds before a step is tried again whose process died, doubled each time
UNKNOWN_FOR: Final = 60_000  # milliseconds after which an activity that no worker knows is a failure
UNKNOWN_DELAY: Final = 5000


class MessageMaker(Protocol):
    """The part of the emitter that is needed here."""

    def activity_message(
        self,
        name: str,
        task_id: str,
        step: str,
        call: str,
        options: ActivityOptions,
        first_at: int,
        group: GroupRef | None = None,
        notes: Notes = ...,
    ) -> tuple[str, bytes]:
        """The queue key and the message of one attempt."""
        ...


class Again(NamedTuple):
    """Try once more after `delay` milliseconds; `notes` travel with the next attempt."""

    delay: int
    notes: Notes


def judge(
    step: Step,
    failure: FailureDetails,
    now: int,
    asked_delay: timedelta | None = None,
    max_lost: int = MAX_LOST,
    seal: Seal = PLAIN,
) -> Again | None:
    """Whether the failed attempt is followed by another one. May take 2 s: it runs the policy's handler.

    The first `max_lost` processes that die in a row cost no attempt; the death of a further one is a failure
    like any other.
    """
    notes = step.header.notes
    died = failure.is_caused_by(ActivityWorkerLostError)
    if died and notes.lost < max_lost:
        return Again(LOST_DELAY << notes.lost, Notes(notes.lost + 1, notes.spared + 1))
    if failure.is_caused_by(UnknownActivityError) or failure.is_caused_by(SealedPayloadError):
        since = notes.unknown or now  # a deploy may be going on: another worker will know it, or has the key
        if now - since >= UNKNOWN_FOR:
            return None
        return Again(UNKNOWN_DELAY, Notes(notes.lost, notes.spared + 1, since))
    if not step.header.options.retry or _is_final(failure):
        return None
    delay = _by_policy(step, failure, now, seal, asked_delay)
    return None if delay is None else Again(delay, Notes(notes.lost if died else 0, notes.spared))


def _by_policy(
    step: Step, failure: FailureDetails, now: int, seal: Seal, asked_delay: timedelta | None
) -> int | None:
    """The delay that the step's policy, or its handler, gives; None for no further attempt."""
    notes, header = step.header.notes, step.header
    try:
        policy = RetryPolicy.from_json(header.options.retry)
    except (ValueError, msgspec.MsgspecError):
        logger.exception("the retry policy of %s is no policy; it is not tried again", step.name)
        return None
    attempt = step.task.attempt - notes.spared
    verdict = None
    if policy.handler is not None and asked_delay is None:
        elapsed = timedelta(milliseconds=max(0, now - header.first_at))
        verdict = _ask(policy, RetryContext(attempt, failure, elapsed, step.task.instance), seal)
    seed = f"{step.task.execution}:{step.task.seq}"
    return decide(policy, failure, attempt, header.first_at, now, seed, asked_delay, verdict)


def _is_final(failure: FailureDetails) -> bool:
    """Failures that no repetition can cure: the engine refused a value, or the code is wrong."""
    return failure.is_caused_by(AuthoringError) or failure.is_caused_by(PayloadTooLargeError)


def _ask(policy: RetryPolicy, context: RetryContext, seal: Seal) -> bool | timedelta | None:
    """The handler's verdict. One that fails or takes too long counts as none: the policy decides."""
    verdicts: list[bool | timedelta] = []

    def run() -> None:
        try:
            handler = policy.load_handler()
            if handler is not None:
                verdicts.append(handler(context))
        except Exception as error:  # noqa: BLE001  an author's code: whatever it raises, the outcome stays
            logger.error(
                "retry handler %s of %s failed; the policy decides\n%s",
                policy.handler, context.instance_id, seal.trace(error),
            )  # fmt: skip

    thread = threading.Thread(target=run, name="celeriac-retry-handler", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # no memory, or too many of them
        logger.error("retry handler %s cannot be asked (%s); the policy decides", policy.handler, error)
        return None
    thread.join(HANDLER_LIMIT)
    if thread.is_alive():
        logger.error("retry handler %s took over %g s; the policy decides", policy.handler, HANDLER_LIMIT)
        return None
    return verdicts[0] if verdicts else None


def failed(
    keys: Keys,
    maker: MessageMaker,
    seal: Seal,
    step: Step,
    failure: FailureDetails,
    again: Again | None,
    now: int,
) -> Call[str]:
    """The call that parks the next attempt, or that ends the step with this failure."""
    if again is None:
        return _ended(keys, seal, step, failure=failure)
    following = step.task._replace(attempt=step.task.attempt + 1)
    options, first_at = step.header.options, step.header.first_at
    key, message = maker.activity_message(
        step.name, str(following), following.step, step.call, options, first_at, step.group, again.notes
    )
    note = Attempt(step.task.attempt, now, failure.error_type, failure.message[:512], again.delay)
    return steps.retry(
        keys,
        step.task.instance,
        step.task.execution,
        step.task.seq,
        step.task.attempt,
        due=now + again.delay,
        queue_key=key,
        message=message,
        failed=seal.attempt(note),
        start_by=now + again.delay + options.schedule_to_start if options.schedule_to_start else 0,
        lost=again.notes.lost,
        notes=again.notes.kept,
    )


def succeeded(
    keys: Keys, seal: Seal, step: Step, result: str, aside: tuple[str, bytes] | None = None
) -> Call[str]:
    """The call that ends the step with `result`, JSON text or a reference to `aside`, a payload to store."""
    return _ended(keys, seal, step, result=result, payloads=[aside] if aside else [])


def _ended(
    keys: Keys,
    seal: Seal,
    step: Step,
    *,
    result: str | None = None,
    failure: FailureDetails | None = None,
    payloads: Sequence[tuple[str, bytes]] = (),
) -> Call[str]:
    if step.group is not None:
        text = seal.open_text(PartOutcome(result, failure))
    elif failure is not None:
        text = seal.open_text(TaskFailed(seq=step.task.seq, failure=failure))
    else:
        text = seal.open_text(TaskCompleted(seq=step.task.seq, result=result))
    return steps.complete(
        keys,
        step.task.instance,
        step.task.execution,
        step.task.seq,
        step.task.attempt,
        success=failure is None,
        text=text,
        index=step.group.index if step.group else -1,
        payloads=payloads,
    )
