"""Every error of Celeriac, in one tree.

CeleriacError
├── AuthoringError             the workflow's code is wrong; says where and what to write instead
│   ├── RegistrationError      two definitions share a name and version
│   ├── NonDeterminismError    a replay issues another command than the recorded one
│   └── CodecError             a value cannot be written as JSON or read as the annotated type
├── TaskFailedError            an awaited activity or sub-orchestration failed; has `.details`
├── TaskCancelledError         the awaited task was cancelled by `task.cancel()`
├── ActivityTimeoutError       an attempt of an activity passed one of its limits
├── ActivityWorkerLostError    the processes that ran an activity died, too often in a row
├── ActivityMessageLostError   the message of an activity was lost, too often in a row
├── UnknownActivityError       no worker that took the activity knows its name
├── LimitExceededError         an instance asks for more than it may have: steps, events, depth
├── OrchestrationCancelledError  raised at the await when a client cancels the instance
├── NonRetryableError          raise it in an activity: fail now, whatever the retry policy says
├── RetryAfter                 raise it in an activity or a child: fail this attempt, try again after a delay
└── ClientError                a call of the client was refused; has `.exit_code` for the CLI
    ├── InstanceNotFoundError
    ├── InstanceExistsError
    ├── InstanceEndedError
    ├── InstanceNotEndedError
    ├── UnknownNameError
    ├── InvalidArgumentError
    ├── PayloadTooLargeError
    ├── RedisUnavailableError
    ├── RedisUnsuitableError
    ├── RedisFullError
    └── SealedPayloadError

`ContinueAsNew` derives from BaseException, so that an author's `except Exception` cannot swallow it.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

import msgspec

__all__ = [
    "ActivityMessageLostError",
    "ActivityTimeoutError",
    "ActivityWorkerLostError",
    "AuthoringError",
    "CeleriacError",
    "ClientError",
    "CodecError",
    "ContinueAsNew",
    "FailureDetails",
    "InstanceEndedError",
    "InstanceExistsError",
    "InstanceNotEndedError",
    "InstanceNotFoundError",
    "InvalidArgumentError",
    "LimitExceededError",
    "NonDeterminismError",
    "NonRetryableError",
    "OrchestrationCancelledError",
    "PayloadTooLargeError",
    "RedisFullError",
    "RedisUnavailableError",
    "RedisUnsuitableError",
    "RegistrationError",
    "RetryAfter",
    "SealedPayloadError",
    "TaskCancelledError",
    "TaskFailedError",
    "UnknownActivityError",
    "UnknownNameError",
    "failure_from",
    "qualified_name",
]

MAX_STACK_CHARS = 16 * 1024
MAX_MESSAGE_CHARS = 8 * 1024
MAX_INNER_STACK_CHARS = 4 * 1024  # of each cause
MAX_PROPERTIES_CHARS = 16 * 1024  # as JSON
OMITTED = "omitted"  # the property that names those left out
RETRY_AFTER = "retry_after_ms"  # the property in which the delay of a RetryAfter travels
_MS = timedelta(milliseconds=1)


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One failed attempt of an activity or a sub-orchestration.

    An activity's are kept beside the open step and written with its outcome.
    """

    number: int
    at: int  # milliseconds since the epoch, Redis' clock
    error_type: str
    message: str
    delay: int = 0  # milliseconds until the next attempt


class FailureDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """A failure as data: it crosses processes without importing the class that was raised."""

    error_type: str  # qualified, e.g. "builtins.ValueError"
    message: str = ""
    stack_trace: str = ""
    inner: FailureDetails | None = None
    properties: dict[str, Any] = {}
    bases: tuple[str, ...] = ()  # qualified names of the base classes, for `is_caused_by`
    attempts: tuple[Attempt, ...] = ()

    def is_caused_by(self, error: type[BaseException] | str) -> bool:
        """True if this failure, or one it was raised from, is `error` or a subclass of it.

        `error` is a class, a qualified name or a bare class name.
        """
        wanted = error if isinstance(error, str) else qualified_name(error)
        for name in (self.error_type, *self.bases):
            if name == wanted or ("." not in wanted and name.rpartition(".")[2] == wanted):
                return True
        return self.inner is not None and self.inner.is_caused_by(wanted)


def qualified_name(cls: type) -> str:
    """The name under which a class travels: module and qualified name."""
    return f"{cls.__module__}.{cls.__qualname__}"


def failure_from(error: BaseException, *, depth: int = 8, stack: int = MAX_STACK_CHARS) -> FailureDetails:
    """Describe an exception as data: type, bases, message, bounded stack and the cause it was raised from.

    An attribute `properties` (a mapping) of the exception travels with it, and so does the delay of a
    RetryAfter: whoever tries a sub-orchestration again sees the data only.
    """
    if isinstance(error, TaskFailedError) and not error.__traceback__:
        return error.details
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    inner = None
    if cause is not None and depth > 0:
        inner = failure_from(cause, depth=depth - 1, stack=MAX_INNER_STACK_CHARS)
    if inner is None and isinstance(error, TaskFailedError):
        inner = error.details
    bases = tuple(qualified_name(c) for c in type(error).__mro__[1:] if c is not object)
    return FailureDetails(
        error_type=qualified_name(type(error)),
        message=_text(error)[:MAX_MESSAGE_CHARS],
        stack_trace=_text("".join(traceback.format_tb(error.__traceback__)))[-stack:],
        inner=inner,
        properties=_properties(error),
        bases=bases,
    )


def _properties(error: BaseException) -> dict[str, Any]:
    given = getattr(error, "properties", None)
    properties = _plain(given) if isinstance(given, Mapping) else {}
    delay = getattr(error, "delay", None) if isinstance(error, RetryAfter) else None
    if isinstance(delay, timedelta):  # an author's subclass may have set something else, or nothing
        properties[RETRY_AFTER] = math.ceil(delay / _MS)
    return properties


def _plain(properties: Mapping[Any, Any]) -> dict[str, Any]:
    """Properties as JSON values; what JSON cannot hold becomes its text, so a failure always travels."""
    plain: dict[str, Any] = {}
    omitted: list[str] = []
    room = MAX_PROPERTIES_CHARS
    for key, value in properties.items():
        name, plain_value = _text(key), _plain_value(value)
        size = len(name) + len(msgspec.json.encode(plain_value))
        if size > room:
            omitted.append(name[:100])
        else:
            plain[name] = plain_value
            room -= size
    if omitted:
        plain[OMITTED] = omitted[:20]
    return plain


def _plain_value(value: Any) -> Any:
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_text))
    except (ValueError, TypeError, RecursionError):
        return _text(value)


def _text(value: Any) -> str:
    """The text of anything: one that fails to give it, or gives half a character, must not stop a failure."""
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - an author's __str__ may raise anything
        text = f"<{type(value).__name__} whose text cannot be had: {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


class CeleriacError(Exception):
    """The root of every error a user of Celeriac can meet."""


# --- authoring -----------------------------------------------------------------------------------


class AuthoringError(CeleriacError):
    """The workflow's own code is wrong."""


class RegistrationError(AuthoringError):
    """Two definitions share one name and version; the message names both places."""


class CodecError(AuthoringError):
    """A value cannot be written as JSON, or JSON cannot be read as the annotated type."""


class NonDeterminismError(AuthoringError):
    """A replay issued another command than the recorded one; the instance waits for fixed code.

    Carries `seq`, `recorded` and `issued` (each a one-line description) and `where` (file:line).
    """

    def __init__(self, seq: int | None, recorded: str, issued: str, where: str = "") -> None:
        self.seq, self.recorded, self.issued, self.where = seq, recorded, issued, where
        super().__init__(
            f"the code no longer does what this instance's history records"
            f"{f' at command {seq}' if seq is not None else ''}{f' ({where})' if where else ''}\n"
            f"  recorded: {recorded}\n"
            f"  issued:   {issued}\n"
            "Deploy code that issues the recorded command, or guard the change with ctx.patched(change_id)."
        )


# --- raised inside workflows ---------------------------------------------------------------------


class TaskFailedError(CeleriacError):
    """An awaited activity, sub-orchestration or group failed. `.details` says how.

    `.failures` holds every failure of a `when_all`, in input order; one element otherwise.
    """

    def __init__(
        self,
        details: FailureDetails,
        *,
        name: str = "",
        seq: int | None = None,
        failures: tuple[FailureDetails, ...] = (),
    ) -> None:
        self.details, self.name, self.seq = details, name, seq
        self.failures = failures or (details,)
        where = f"{name or 'task'}{f' #{seq}' if seq is not None else ''}"
        more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
        super().__init__(f"{where} failed: {details.error_type}: {details.message}{more}")

    def is_caused_by(self, error: type[BaseException] | str) -> bool:
        """True if the failure, or one it was raised from, is `error` or a subclass of it."""
        return self.details.is_caused_by(error)


class TaskCancelledError(CeleriacError):
    """The awaited task was cancelled by `task.cancel()`."""


class ActivityTimeoutError(CeleriacError, TimeoutError):
    """An attempt of an activity passed one of its limits."""


class ActivityWorkerLostError(CeleriacError):
    """The process that ran the activity died: killed, out of memory, or it called `os._exit`."""


class ActivityMessageLostError(CeleriacError):
    """The message of an activity vanished from its queue, and did so again each time it was sent anew."""


class UnknownActivityError(CeleriacError):
    """No worker that took the activity has one of this name registered."""


class LimitExceededError(CeleriacError):
    """An instance asks for more than it may have: steps at once, a depth of sub-orchestrations."""


class OrchestrationCancelledError(CeleriacError):
    """A client cancelled the instance; catch it to compensate, and raise it again."""


class NonRetryableError(CeleriacError):
    """Raise it (or a subclass) in an activity to fail at once, whatever the retry policy says."""


class RetryAfter(CeleriacError):
    """Raise it in an activity or a sub-orchestration: this attempt failed, try again after `delay`
    (seconds or timedelta).

    The policy's number of attempts still holds; without a policy it is an ordinary failure.
    """

    def __init__(self, delay: float | timedelta, message: str = "") -> None:
        self.delay = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        super().__init__(message or f"asked to be tried again after {self.delay}")


class ContinueAsNew(BaseException):
    """Ends this run of an orchestrator; raised by `ctx.continue_as_new` and caught by the driver.

    If your code shows you this one, it caught BaseException (or used a bare `except:`): let it pass.
    """


# --- the client ----------------------------------------------------------------------------------


class ClientError(CeleriacError):
    """A client call was refused. `exit_code` is what the CLI exits with."""

    exit_code: ClassVar[int] = 1


class InvalidArgumentError(ClientError):
    """An argument is not acceptable: a bad id, malformed JSON, an unknown option."""

    exit_code = 2


class InstanceNotFoundError(ClientError):
    """No instance has this id."""

    exit_code = 4


class InstanceExistsError(ClientError):
    """An instance with this id is still running."""

    exit_code = 5


class InstanceEndedError(ClientError):
    """The instance has ended, so it can no longer receive this."""

    exit_code = 6


class InstanceNotEndedError(ClientError):
    """The instance still runs; this needs a finished one."""

    exit_code = 7


class UnknownNameError(ClientError):
    """No orchestrator (or activity) of this name and version is registered or served."""

    exit_code = 8


class PayloadTooLargeError(ClientError):
    """A value is over the hard payload limit (CELERIAC_MAX_PAYLOAD, 8 MiB unless set)."""

    exit_code = 9


class RedisUnavailableError(ClientError):
    """Redis does not answer."""

    exit_code = 10


class RedisUnsuitableError(ClientError):
    """This Redis must not be used: too old, a replica, a cluster, or one that evicts keys."""

    exit_code = 11


class RedisFullError(ClientError):
    """Redis has no memory for this, nothing was written. Instances are refused from 90 % of maxmemory on."""

    exit_code = 12


class SealedPayloadError(ClientError):
    """A value is sealed and cannot be opened here, or cannot be sealed: see CELERIAC_CODEC."""

    exit_code = 13
