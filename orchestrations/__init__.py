"""Durable functions written as ordinary code: the names an author imports."""

from .completions import as_completed
from .context import OrchestrationContext
from .errors import (
    AuthoringError,
    CeleriacError,
    CodecError,
    FailureDetails,
    NonDeterminismError,
    NonRetryableError,
    OrchestrationCancelledError,
    RegistrationError,
    RetryAfter,
    TaskCancelledError,
    TaskFailedError,
)
from .registry import orchestrator
from .retry import RetryContext, RetryPolicy
from .tasks import Task, when_all, when_any
from .triggers import queue_trigger

__all__ = [
    "AuthoringError",
    "CeleriacError",
    "CodecError",
    "FailureDetails",
    "NonDeterminismError",
    "NonRetryableError",
    "OrchestrationCancelledError",
    "OrchestrationContext",
    "RegistrationError",
    "RetryAfter",
    "RetryContext",
    "RetryPolicy",
    "Task",
    "TaskCancelledError",
    "TaskFailedError",
    "as_completed",
    "orchestrator",
    "queue_trigger",
    "when_all",
    "when_any",
]
