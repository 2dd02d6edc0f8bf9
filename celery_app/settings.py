"""One frozen value with every setting, read once at the edge of a process.

`Settings.load()` looks, for each setting on its own, at

1. what the caller passes (`celeriac --redis ...`, `Client(redis_url=...)`),
2. the variable `CELERIAC_<NAME>`, e.g. `CELERIAC_REDIS_URL`; `CELERIAC_APP` lists modules, comma-separated,
3. the table `[tool.celeriac]` of the nearest `pyproject.toml`, in the current folder or above,
4. what `celeriac dev` notes for this folder (`.celeriac/dev.json`), while its Redis is alive: the Redis, and
   beside that one the hub and the modules,
5. the default.

A bad value is refused with an `InvalidArgumentError` that names where it was read.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from celeriac.orchestrations.errors import InvalidArgumentError

from . import embedded
from .redis_urls import celery_url, database_of, masked_url, url_problem
from .sentinel import SentinelAddress, sentinel_address

__all__ = ["Settings"]

DEFAULT_REDIS_URL: Final = "redis://127.0.0.1:6379/0"
TRANSPORTS: Final = ("celeriac", "stock")
DEFAULT_QUEUE: Final = "celeriac"
DEFAULT_HUB: Final = "celeriac"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Times are in seconds, sizes in bytes."""

    redis_url: str = DEFAULT_REDIS_URL
    hub: str = DEFAULT_HUB  # name space in one Redis; every key starts with it
    apps: tuple[str, ...] = ()  # modules that define orchestrators and activities
    app_folder: str = ""  # where Python looks for them beside the current folder; empty: only there
    queue: str = DEFAULT_QUEUE  # where activities go that name no queue
    max_payload: int = 8 * 2**20  # a larger value is refused
    aside_over: int = 64 * 2**10  # a larger payload is kept beside the history, compressed
    lease: float = 10.0  # a process that has not beaten for so long is dead
    beat: float = 2.0
    turn_deadline: float = 5.0  # author code that blocks for longer is interrupted, or loses its process
    slow_turn: float = 2.0  # and for longer than this is reported by name
    window: int = 500  # parts of one fan-out in flight at once
    max_crashes: int = 3  # an instance charged so often in a row is suspended
    max_lost: int = (
        3  # processes that may die in a row while they run one activity, until that is its failure
    )
    max_resends: int = 5  # times that the lost message of one attempt is sent again; then the attempt fails
    max_history: int = 50_000  # events of one run, after which the instance is suspended
    max_history_bytes: int = 50 * 2**20  # the same in bytes
    max_open: int = 10_000  # activities, timers and children of one instance open at once; a fan-out is one
    max_depth: int = 100  # sub-orchestrations within each other
    cache_size: int = 1000  # live executions an orchestrator keeps
    transport: str = "celeriac"  # or "stock": kombu's own Redis transport
    codec: str = ""  # "module:factory" of what seals values on their way to Redis; empty: they go in clear
    codec_seals: bool = True  # False: the codec only opens what is sealed, and seals nothing
    signing_key: str = field(default="", repr=False)  # workers run only messages signed with it; empty: any

    def __post_init__(self) -> None:
        for each in fields(self):
            _CHECKS[each.name](getattr(self, each.name), f"Settings({each.name}=...)")
        if self.signing_key and self.transport == "stock":
            raise InvalidArgumentError(
                "the transport stock cannot check signatures: use the transport celeriac, "
                "or remove CELERIAC_SIGNING_KEY"
            )
        if self.lease < 2 * self.beat:
            raise InvalidArgumentError(
                f"lease ({self.lease:g} s) must be at least twice the beat ({self.beat:g} s), "
                "or a process that is merely busy is taken for dead; set CELERIAC_LEASE or CELERIAC_BEAT"
            )

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] = os.environ,
        cwd: Path | None = None,
        *,
        beside_dev: bool = True,
        **overrides: Any,
    ) -> Settings:
        """The settings of this process. `overrides` win; one that is None counts as not given.

        With `beside_dev`, what nobody set is taken from the `celeriac dev` of the folder.
        """
        folder = Path.cwd() if cwd is None else cwd
        values = _from_pyproject(folder) | _from_environ(environ)
        for name, value in overrides.items():
            if name not in _CHECKS:
                raise TypeError(f"Settings has no field {name!r}")
            if value is not None:
                values[name] = tuple(value) if name == "apps" else value
        if beside_dev and "redis_url" not in values:
            # Of another Redis the hub and modules of this one say nothing.
            values = _from_dev(folder) | values
        return cls(**values)

    @staticmethod
    def configured_redis_url(environ: Mapping[str, str] = os.environ, cwd: Path | None = None) -> str | None:
        """The Redis that a variable or a pyproject.toml names; None when neither does."""
        folder = Path.cwd() if cwd is None else cwd
        return (_from_pyproject(folder) | _from_environ(environ)).get("redis_url")

    @property
    def celery_broker_url(self) -> str:
        """The Redis as kombu spells it: `unix://` becomes `redis+socket://`, sentinels have a URL each."""
        return celery_url(self.redis_url)

    @property
    def celery_result_backend_url(self) -> str:
        """The Redis as Celery's result backends spell it; `socket://` for a unix socket."""
        return celery_url(self.redis_url).removeprefix("redis+")

    @property
    def queue_prefix(self) -> str:
        """What the Redis keys of Celery's queues begin with. Nothing in the default hub, so that they are
        where any Celery tool looks for them; in another hub its name: a worker drops steps that are not open
        in its own hub, so two hubs must not share a queue.
        """
        return "" if self.hub == DEFAULT_HUB else f"{self.hub}:queue:"

    def queue_key(self, queue: str = "") -> str:
        """The Redis key of a Celery queue (by default the default one), for messages of no priority."""
        return f"{self.queue_prefix}{queue or self.queue}"

    @property
    def sentinel(self) -> SentinelAddress | None:
        """Where the sentinels are, when the URL is one of theirs."""
        return sentinel_address(self.redis_url)

    @property
    def database(self) -> int:
        """The number of the database in that Redis."""
        return database_of(self.redis_url)

    @property
    def shown_url(self) -> str:
        """The URL without its password, for messages and logs."""
        return masked_url(self.redis_url)

    def environment(self) -> dict[str, str]:
        """The variables that make a child process load exactly these settings."""
        return {
            _variable(each.name): ",".join(value)
            if isinstance(value := getattr(self, each.name), tuple)
            else str(value)
            for each in fields(self)
        }

    def with_apps(self, *modules: str) -> Settings:
        """These settings, with modules added after the ones there are."""
        return replace(self, apps=tuple(dict.fromkeys((*self.apps, *modules))))


# --- checks: (value, where it was read) -> the value, or an error ---------------------------------


def _refuse(where: str, value: object, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{where} is {value!r}: {problem}")


def _check_url(value: Any, where: str) -> str:
    shown = masked_url(value) if isinstance(value, str) else value
    if not isinstance(value, str):
        raise _refuse(where, value, "it must be a text such as redis://host:6379/0")
    if problem := url_problem(value):
        raise _refuse(where, shown, problem)
    return value


def _check_name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 64:
        raise _refuse(where, value, "it must be a name of 1 to 64 characters")
    if not all(c.isascii() and (c.isalnum() or c in "-_.") for c in value):
        raise _refuse(where, value, "only letters, digits, '-', '_' and '.' may stand in it")
    return value


def _check_apps(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise _refuse(where, value, "it must be a list of module names")
    for name in value:
        is_file = name.endswith(".py") or "/" in name
        if is_file or not all(part.isidentifier() for part in name.split(".")):
            hint = "; write the module's name, not its file" if is_file else ""
            raise _refuse(where, name, f"not the name of a Python module{hint}")
    return tuple(value)


def _check_folder(value: Any, where: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _refuse(where, value, "it must be the path of a folder")
    return value


def _check_transport(value: Any, where: str) -> str:
    if value not in TRANSPORTS:
        raise _refuse(where, value, f"it must be one of {', '.join(TRANSPORTS)}")
    return value


def _check_key(value: Any, where: str) -> str:
    if not isinstance(value, str) or 0 < len(value) < 16 or not value.isascii():
        # The value is not shown: it is a secret.
        raise InvalidArgumentError(
            f"{where}: a signing key is a text of 16 or more letters, digits and signs"
        )
    return value


def _check_codec(value: Any, where: str) -> str:
    module, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if value != "" and not (colon and all(part.isidentifier() for part in [*module.split("."), name])):
        raise _refuse(where, value, "it must be module:factory")
    return value


def _check_flag(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() not in {"true", "1", "false", "0"}:
        raise _refuse(where, value, "it must be true or false")
    return str(value).lower() in {"true", "1"}


def _whole(least: int) -> Callable[[Any, str], int]:
    def check(value: Any, where: str) -> int:
        try:
            number = int(value) if not isinstance(value, float | bool) else None
        except (TypeError, ValueError):
            number = None
        if number is None or number < least:
            raise _refuse(where, value, f"it must be a whole number, {least} or more")
        return number

    return check


def _seconds(least: float) -> Callable[[Any, str], float]:
    def check(value: Any, where: str) -> float:
        try:
            number = float(value) if not isinstance(value, bool) else -1.0
        except (TypeError, ValueError):
            number = -1.0
        if not least <= number < float("inf"):
            raise _refuse(where, value, f"it must be a number of seconds, {least:g} or more")
        return number

    return check


_CHECKS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "redis_url": _check_url,
    "hub": _check_name,
    "apps": _check_apps,
    "app_folder": _check_folder,
    "queue": _check_name,
    "max_payload": _whole(1024),
    "aside_over": _whole(256),
    "lease": _seconds(0.2),
    "beat": _seconds(0.05),
    "turn_deadline": _seconds(0.1),
    "slow_turn": _seconds(0.01),
    "window": _whole(1),
    "max_crashes": _whole(1),
    "max_lost": _whole(0),
    "max_resends": _whole(1),
    "max_history": _whole(10),
    "max_history_bytes": _whole(1024),
    "max_open": _whole(1),
    "max_depth": _whole(0),
    "cache_size": _whole(0),
    "transport": _check_transport,
    "codec": _check_codec,
    "codec_seals": _check_flag,
    "signing_key": _check_key,
}


# --- sources --------------------------------------------------------------------------------------


def _variable(name: str) -> str:
    return "CELERIAC_APP" if name == "apps" else f"CELERIAC_{name.upper()}"


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    """The variables that are set. An empty one counts as not set, as in `CELERIAC_APP= celeriac ...`."""
    found = ((name, _variable(name)) for name in _CHECKS)
    return {name: _CHECKS[name](environ[var], var) for name, var in found if environ.get(var)}


def _from_pyproject(folder: Path) -> dict[str, Any]:
    for directory in (folder, *folder.parents):
        path = directory / "pyproject.toml"
        if path.is_file():
            return _read_pyproject(path)
    return {}


def _read_pyproject(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("celeriac", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError) as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise InvalidArgumentError(f"{path}: tool.celeriac must be a table")
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = "apps" if key in {"app", "apps"} else key.replace("-", "_")
        if name not in _CHECKS:
            known = ", ".join("app" if n == "apps" else n for n in _CHECKS)
            raise InvalidArgumentError(f"{path}: [tool.celeriac] has no setting {key!r}; there are {known}")
        values[name] = _CHECKS[name](value, f"{path}: [tool.celeriac] {key}")
    if "apps" in values or "app_folder" in values:
        # The modules are where the file is, also for who stands in a folder below it.
        values["app_folder"] = str((path.parent / values.get("app_folder", "")).absolute())
    return values


def _from_dev(folder: Path) -> dict[str, Any]:
    """What the living `celeriac dev` of this folder, or of one above, noted."""
    path, record = embedded.find_dev_record(folder) or (Path(), {})
    names = ("redis_url", "hub", "apps", "app_folder")
    return {name: _CHECKS[name](record[name], f"{path}: {name}") for name in names if name in record}
