"""Building the request to start an instance: names, versions, input, all checked before it is sent."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, get_args

from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import CodecError, InvalidArgumentError
from celeriac.orchestrations.history import ExecutionStarted
from celeriac.orchestrations.inputs import read_input
from celeriac.orchestrations.registry import Orchestrator as _Declared
from celeriac.orchestrations.registry import OrchestratorDefinition, Registry

from ..sealing import seal_of
from ..settings import Settings
from ..store.records import StartRequest, new_execution
from . import validation as check
from .driving import Operation
from .progress import Served

OnConflict: TypeAlias = Literal["fail", "use_existing", "terminate_existing"]
Orchestrator: TypeAlias = "str | _Declared[Any, Any]"


class UnfitInputError(InvalidArgumentError):
    """The input can never be one of this orchestrator."""


class Starting:
    """Makes start requests. Remembers the names that some process serves: they never go away."""

    def __init__(
        self, settings: Settings, registry: Registry, served: Callable[[], Operation[Served]]
    ) -> None:
        self._settings, self._registry, self._served = settings, registry, served
        self.seal = seal_of(settings)
        self._known: dict[str, tuple[str, ...]] = {}

    def request(
        self,
        orchestrator: Orchestrator,
        input: Any = None,
        *,
        instance_id: str | None = None,
        idempotency_key: str | None = None,
        start_at: datetime | timedelta | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        on_conflict: OnConflict = "fail",
    ) -> Operation[StartRequest]:
        """The checked request to start an instance; asks Redis only for names it does not know."""
        name, version = _name_and_version(orchestrator, version)
        if on_conflict not in get_args(OnConflict):
            allowed = ", ".join(get_args(OnConflict))
            raise InvalidArgumentError(f"on_conflict is one of {allowed}, not {on_conflict!r}")
        instance = secrets.token_hex(16) if instance_id is None else check.check_id(instance_id)
        key = "" if idempotency_key is None else check.check_name(idempotency_key, "idempotency key")
        checked_tags = check.check_tags(tags)
        text, aside = self.put_aside(input, "input", "pinput")
        due = check.due_millis(start_at, lambda: datetime.now(UTC))
        self._check_input(orchestrator, name, version, None if input is None else codec.encode(input))
        yield from self._check_served(name, version)
        event = ExecutionStarted(
            execution=new_execution(),
            instance=instance,
            name=name,
            version=version,
            input=text,
            tags=checked_tags,
        )
        return StartRequest.of(
            self.seal.sealed(event),
            payloads=aside,
            start_at=due,
            on_conflict=on_conflict,
            idempotency_key=key,
        )

    def put_aside(self, value: object, what: str, field: str) -> tuple[str | None, list[tuple[str, bytes]]]:
        """The payload of a value: its JSON text, or a reference and what is to be stored under it."""
        text = check.encode_payload(value, what, self._settings.max_payload)
        if text is None or len(text.encode()) <= self._settings.aside_over:
            return text, []
        return f"@{field}", [(field, self.seal.pack(text))]

    def _check_served(self, name: str, version: str) -> Operation[None]:
        """Refuse a name (or version) that neither this process nor any worker ever knew."""
        local = self._registry.names()
        if self._is_known(name, version, local):
            return
        served = yield from self._served()
        self._known = served.orchestrators
        if self._is_known(name, version, local):
            return
        versions = {*local.get(name, ()), *self._known.get(name, ())}
        if versions:
            raise check.unknown_version(name, version, versions)
        raise check.unknown_name("orchestrator", name, {*local, *self._known})

    def _is_known(self, name: str, version: str, local: Mapping[str, Sequence[str]]) -> bool:
        for versions in (local.get(name), self._known.get(name)):
            if versions is not None and (not version or version in versions):
                return True
        return False

    def _check_input(self, orchestrator: Orchestrator, name: str, version: str, text: str | None) -> None:
        """Where the function is at hand, an input it could not take is refused here: one that it cannot read,
        one that is missing, one that it has no parameter for.
        """
        definition: OrchestratorDefinition | None
        if isinstance(orchestrator, _Declared):
            definition = orchestrator.definition
        else:
            definition = self._registry.get(name, version)
        if definition is None:
            return
        try:
            read_input(definition, text)
        except CodecError as error:
            raise UnfitInputError(f"the input does not fit orchestrator {name!r}: {error}") from error


def _name_and_version(orchestrator: Orchestrator, version: str | None) -> tuple[str, str]:
    """The name, and the version asked for; a function stands for its own version."""
    if isinstance(orchestrator, _Declared):
        definition = orchestrator.definition
        return definition.name, definition.version if version is None else version
    if not isinstance(orchestrator, str):
        raise InvalidArgumentError(
            f"start takes the name of an orchestrator or a function declared with @orchestrator, "
            f"not {check.describe(orchestrator)}"
        )
    return check.check_name(orchestrator, "name of the orchestrator"), version or ""
