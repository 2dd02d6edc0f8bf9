"""What the commands share: the global options, JSON and time arguments, and how results are printed."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from .hiding import url_of

if TYPE_CHECKING:
    from celeriac.celery_app.client.sync import Client
    from celeriac.celery_app.settings import Settings
    from celeriac.celery_app.store import Store

F = TypeVar("F", bound=Callable[..., Any])

UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SHOWN_JSON: Final = 70  # characters of a bad JSON text shown around the fault


@dataclass(frozen=True, slots=True)
class Common:
    """The global options; settings and connections are made from them when a command needs them."""

    app: str | None = None
    redis_url: str | None = None
    hub: str | None = None

    def settings(self, *, beside_dev: bool = True) -> Settings:
        """The settings of this command; with `beside_dev` also what the folder's `celeriac dev` noted."""
        from celeriac.celery_app.settings import Settings

        apps = tuple(part.strip() for part in self.app.split(",") if part.strip()) if self.app else None
        return Settings.load(beside_dev=beside_dev, redis_url=self.redis_url, hub=self.hub, apps=apps)

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """A client that is closed at the end of the block."""
        from celeriac.celery_app.client.sync import Client

        client = Client(settings=self.settings())
        try:
            yield client
        finally:
            client.close()

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """A store that is closed at the end of the block, for what the client has no verb for."""
        from celeriac.celery_app.store import Store

        store = Store.connect(self.settings())
        try:
            yield store
        finally:
            store.close()


GLOBAL_OPTIONS: Final = {
    "app": ("--app", "MODULES", "Modules that define orchestrators and activities (CELERIAC_APP)."),
    "redis_url": ("--redis", "URL", "redis://, rediss://, sentinel:// or unix:// (CELERIAC_REDIS_URL)."),
    "hub": ("--hub", "NAME", "Name space in that Redis (CELERIAC_HUB)."),
}


def global_options(*shown: str) -> Callable[[F], F]:
    """The global options, accepted after a command's name too; only `shown` ones stand in its help."""

    def remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is not None and param.name is not None:
            value = url_of(value) if param.name == "redis_url" else value
            ctx.obj = replace(ctx.find_object(Common) or Common(), **{param.name: value})

    def decorate(command: F) -> F:
        for name, (flag, metavar, text) in reversed(GLOBAL_OPTIONS.items()):
            command = click.option(
                flag,
                name,
                metavar=metavar,
                help=text,
                hidden=name not in shown,
                expose_value=False,
                callback=remember,
            )(command)
        return command

    return decorate


def pass_common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the global options as its first argument."""
    return global_options()(click.make_pass_decorator(Common)(command))


def pass_serving(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a command that serves modules: `--app` stands in its help."""
    return global_options("app")(click.make_pass_decorator(Common)(command))


def json_option(command: F) -> F:
    """The `--json` of every reading command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


class FailedError(click.ClickException):
    """Ends the command with a message and an exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def fail(text: str, code: int) -> NoReturn:
    """End the command with a message and an exit code."""
    raise FailedError(text, code)


def warn(text: str) -> None:
    """A warning or hint, on stderr so that output stays clean."""
    click.echo(f"{click.style('Warning:', fg='yellow', bold=True)} {text}", err=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout, indented for people when stdout is a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, indent=indent, ensure_ascii=False))


# --- arguments ------------------------------------------------------------------------------------


class JsonInput(click.ParamType):
    """A JSON value: written out, `@file`, or `-` for stdin. Converts to `Given(value)`."""

    name = "json"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "JSON|@FILE|-"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        source = "the JSON"
        try:
            if value == "-":
                source, value = "stdin", sys.stdin.read()
            elif value.startswith("@"):
                source = value[1:]
                with open(source, encoding="utf-8") as file:
                    value = file.read()
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{source} cannot be read: {error}", param, ctx)
        try:
            return Given(parse_json(value))
        except ValueError as error:
            self.fail(f"{source} is not valid: {error}", param, ctx)


@dataclass(frozen=True, slots=True)
class Given:
    """A JSON value that was given, so that `null` differs from nothing."""

    value: Any


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that stands there twice is a fault."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return found


def parse_json(text: str) -> Any:
    """The value of a JSON text; a ValueError shows the place of the fault, NaN and Infinity are faults."""
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        line = [*text.split("\n"), ""][error.lineno - 1]
        start = max(0, error.colno - 1 - SHOWN_JSON // 2)
        shown, caret = line[start : start + SHOWN_JSON], " " * (error.colno - 1 - start) + "^"
        place = f"line {error.lineno}, column {error.colno}"
        hint = _json_hint(text)
        raise ValueError(f"{error.msg} at {place}\n  {shown}\n  {caret}{hint}") from None


def _json_hint(text: str) -> str:
    stripped = text.strip()
    if not stripped:
        return "\nIt is empty."
    if re.fullmatch(r"[^\s\"'\[\]{}]+", stripped):
        return f"\nA text needs quotes of its own: -i '\"{stripped}\"'"
    if stripped[0] in "{[" and "'" in stripped and '"' not in stripped:
        return "\nJSON wants double quotes around names and texts."
    return ""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is too large")
    return number


class Seconds(click.ParamType):
    """A length of time: `90`, `90s`, `1.5m`, `2h`, `3d`, `250ms`. Converts to float seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration; write 30, 30s, 5m, 2h or 1d", param, ctx)
        return float(match[1]) * UNITS[match[2] or "s"]


class Moment(click.ParamType):
    """A point in time in ISO 8601; without an offset it is local time. Converts to an aware datetime."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(str(value)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is not a time; write 2026-01-31T08:00 or 2026-01-31T08:00+01:00", param, ctx
            )


def parse_tags(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """The callback of `--tag key=value`."""
    tags: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", ctx, param)
        tags[key] = value
    return tags


def start_time(at: datetime | None, delay: float | None) -> datetime | timedelta | None:
    """The one start time that `--at` and `--delay` give; both at once are refused."""
    if at is not None and delay is not None:
        raise click.UsageError("--at and --delay exclude each other")
    return at if at is not None else timedelta(seconds=delay) if delay is not None else None
