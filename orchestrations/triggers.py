"""Declarations of what starts orchestrations from outside. Plain data: the engine does the listening.

    @queue_trigger("orders")                    # each message of the Redis list starts one instance
    @orchestrator
    async def fulfil_order(ctx, order: Order): ...

    @queue_trigger("approvals")                 # a starter: given each message and a client, it decides
    def on_approval(message: dict, client) -> None:
        client.raise_event(message["instance"], "Approval", message["approved"])

    queue_trigger("approvals", event="Approval")            # an event, to the instance that the message names
    queue_trigger("orders", orchestrator="fulfil_order")    # the same as the first, without a decorator

The message of an event trigger is a JSON object `{"instanceId": ..., "data": ...}`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .errors import AuthoringError, RegistrationError
from .registry import Orchestrator, OrchestratorDefinition, check_name, location

__all__ = ["TRIGGERS", "QueueTrigger", "TriggerRegistry", "queue_trigger"]

F = TypeVar("F", bound="Callable[..., Any]")

Starter = Callable[..., Any]  # (message, client)

_QUEUE = re.compile(r"[^\x00-\x20\x7f{}]{1,128}")
POISON = "-poison"


@dataclass(frozen=True, slots=True)
class QueueTrigger:
    """One Redis list, and what each of its messages leads to: exactly one of the three targets is set."""

    queue: str
    orchestrator: str = ""  # start an instance of it with the message as input
    version: str = ""
    starter: Starter | None = field(default=None, compare=False)  # call it with the message and a client
    event: str = ""  # raise this event for the instance that the message names
    max_dequeue: int = 5  # tries before a message goes to `poison`
    where: str = ""  # file:line of the target

    @property
    def poison(self) -> str:
        """The list to which a message goes after `max_dequeue` failed tries."""
        return self.queue + POISON


class TriggerRegistry:
    """Queue triggers, one for each queue."""

    def __init__(self) -> None:
        self._by_queue: dict[str, QueueTrigger] = {}

    def add(self, trigger: QueueTrigger) -> None:
        """Enter a trigger; two for one queue are refused, because each message goes to one of them only."""
        known = self._by_queue.get(trigger.queue)
        if known is not None and known.where != trigger.where:
            raise RegistrationError(
                f"queue {trigger.queue!r} has two triggers: {_target(known)} and {_target(trigger)}; a "
                "message goes to one of them only, so write one starter that does both"
            )
        self._by_queue[trigger.queue] = trigger

    def get(self, queue: str) -> QueueTrigger | None:
        """The trigger of this queue, or None."""
        return self._by_queue.get(queue)

    def queues(self) -> list[QueueTrigger]:
        """Every queue trigger, sorted by queue."""
        return [self._by_queue[queue] for queue in sorted(self._by_queue)]


TRIGGERS = TriggerRegistry()
"""Where `queue_trigger` enters declarations unless it is given another registry."""


class Declared:
    """What `queue_trigger(...)` returns: a decorator while it has no target, else only the declaration."""

    def __init__(self, trigger: QueueTrigger, registry: TriggerRegistry) -> None:
        self.trigger, self._registry = trigger, registry

    def __call__(self, target: F, /) -> F:
        """Make `target`, an orchestrator or a starter function, what the messages lead to; returns it."""
        if _has_target(self.trigger):
            raise AuthoringError(
                f"the trigger of queue {self.trigger.queue!r} already leads to {_target(self.trigger)}; do "
                "not use it as a decorator as well"
            )
        self.trigger = _build(self.trigger.queue, target, None, "", self.trigger.max_dequeue)
        self._registry.add(self.trigger)
        return target


def queue_trigger(
    queue: str,
    *,
    orchestrator: Orchestrator[Any, Any] | str | None = None,
    starter: Starter | None = None,
    event: str = "",
    max_dequeue: int = 5,
    registry: TriggerRegistry | None = None,
) -> Declared:
    """Declare what each message of a Redis list leads to.

    As a decorator on an orchestrator or a starter function, or with exactly one of `orchestrator`, `starter`
    and `event`. A message that fails `max_dequeue` times moves to the list `<queue>-poison`.
    """
    given = [each for each in (orchestrator, starter, event) if each]
    if len(given) > 1:
        raise AuthoringError(f"the trigger of queue {queue!r} has {len(given)} targets; give it one")
    if not _QUEUE.fullmatch(queue):
        raise AuthoringError(
            f"{queue!r} cannot be a trigger queue: 1 to 128 characters, no blanks, braces, control characters"
        )
    if queue.endswith(POISON):
        raise AuthoringError(f"{queue!r} ends with {POISON!r}, which is kept for messages that failed")
    if type(max_dequeue) is not int or max_dequeue < 1:
        raise AuthoringError(f"max_dequeue must be a whole number from 1; got {max_dequeue!r}")
    declared = Declared(
        _build(queue, orchestrator, starter, event, max_dequeue), TRIGGERS if registry is None else registry
    )
    if given:
        declared._registry.add(declared.trigger)
    return declared


def _build(queue: str, target: Any, starter: Starter | None, event: str, max_dequeue: int) -> QueueTrigger:
    if target is not None and not isinstance(target, str | Orchestrator):
        starter, target = target, None
    if starter is not None:
        if not callable(starter) or not hasattr(starter, "__name__"):
            raise AuthoringError(f"{starter!r} cannot be a starter: write a function (message, client)")
        if next(iter(inspect.signature(starter).parameters), "") in ("ctx", "context"):
            raise AuthoringError(
                f"{location(starter)} looks like an orchestrator, not a starter (message, client): put "
                "@queue_trigger above @orchestrator"
            )
        return QueueTrigger(queue, starter=starter, max_dequeue=max_dequeue, where=location(starter))
    if isinstance(target, Orchestrator):
        made: OrchestratorDefinition = target.definition
        return QueueTrigger(
            queue, orchestrator=made.name, version=made.version, max_dequeue=max_dequeue, where=made.where
        )
    if target:
        name = check_name("orchestrator", target)
        return QueueTrigger(queue, orchestrator=name, max_dequeue=max_dequeue, where=f"orchestrator {name}")
    return QueueTrigger(queue, event=event, max_dequeue=max_dequeue, where=f"event {event}" if event else "")


def _has_target(trigger: QueueTrigger) -> bool:
    return bool(trigger.orchestrator or trigger.starter or trigger.event)


def _target(trigger: QueueTrigger) -> str:
    if trigger.starter is not None:
        return f"starter {trigger.where}"
    kind = "orchestrator" if trigger.orchestrator else "event"
    return f"{kind} {trigger.orchestrator or trigger.event!r} ({trigger.where})"
