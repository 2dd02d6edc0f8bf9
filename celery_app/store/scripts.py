"""Loads the scripts in `lua/` and turns a call with named arguments into the bytes for EVALSHA.

A script is a real Lua file that opens with comment lines:

    -- keys: ready wake inst inbox        names from keys.py; each becomes a local
    -- args: instance:str now:int parts:pack        each becomes a local of that type
    -- include: time ready                other files of lua/, whose locals and functions come first

A single key is passed in KEYS. A family (see keys.KEYS) is passed as its *prefix* among ARGV: scripts
learn ids as they run (a child's parent, a timer's instance), so they append the id to the prefix.
Types: `int`, `flag` (a boolean), `str` (text or bytes, as it is), `pack` (any value, as MessagePack).
A call whose arguments are not exactly the script's is refused with a TypeError.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Generic, TypeVar

from .keys import KEYS, Keys
from .wire import pack

__all__ = ["Call", "Script", "blocking", "command", "script"]

T = TypeVar("T")

_HEADER = re.compile(r"^-- (keys|args|include): *(.*)$")

_LUA_READ = {
    "int": "tonumber(ARGV[{0}])",
    "flag": "ARGV[{0}] == '1'",
    "str": "ARGV[{0}]",
    "pack": "cmsgpack.unpack(ARGV[{0}])",
}


def _as_is(value: Any) -> Any:
    if not isinstance(value, str | bytes):
        raise TypeError(f"a str argument takes text or bytes, not {type(value).__name__}")
    return value


_ENCODE: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "flag": lambda value: b"1" if value else b"0",
    "str": _as_is,
    "pack": pack,
}


def _identity(reply: Any) -> Any:
    return reply


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call of the store as a value: what to send, how to read the reply, whether it may be sent again."""

    args: tuple[Any, ...]  # the words after EVALSHA and the hash, or a whole plain command
    decode: Callable[[Any], T]
    idempotent: bool = False
    script: Script | None = None

    def words(self) -> tuple[Any, ...]:
        """The command to send."""
        if self.script is None:
            return self.args
        return ("EVALSHA", self.script.sha, *self.args)

    def loading(self) -> tuple[Any, ...]:
        """The command that makes Redis know the script, to be sent before `words`. No EVAL: our users of
        Redis need not be allowed it.
        """
        assert self.script is not None
        return ("SCRIPT", "LOAD", self.script.source)


def command(
    *words: Any, decode: Callable[[Any], T] = _identity, idempotent: bool = True
) -> Call[T]:  # fmt: skip
    """A call that is one plain Redis command; reads may be repeated, so that is the default."""
    return Call(words, decode, idempotent)


def blocking(seconds: float) -> str:
    """A time-out for a blocking command, at least 10 ms: Redis 6.2 cuts 0.001 down to 0, for ever."""
    return f"{max(0.01, seconds):.3f}"


@dataclass(frozen=True, slots=True)
class Script:
    """A loaded script."""

    name: str
    single: tuple[str, ...]  # names of keys passed in KEYS
    families: tuple[str, ...]  # names of families passed as prefixes in ARGV
    args: Mapping[str, str]  # name: type
    source: str = field(repr=False)
    sha: str

    def call(
        self,
        keys: Keys,
        /,
        *,
        decode: Callable[[Any], T] = _identity,
        idempotent: bool = False,
        **values: Any,
    ) -> Call[T]:
        """A call of this script with exactly its arguments, by name."""
        if values.keys() != self.args.keys():
            missing = ", ".join(self.args.keys() - values.keys()) or "none"
            unknown = ", ".join(values.keys() - self.args.keys()) or "none"
            raise TypeError(f"script {self.name}: missing arguments: {missing}; unknown: {unknown}")
        head = keys.heads.get(self.name)
        if head is None:
            paths = [keys.path(name) for name in (*self.single, *self.families)]
            head = keys.heads[self.name] = (len(self.single), *paths)
        words = [_ENCODE[type_](values[name]) for name, type_ in self.args.items()]
        return Call((*head, *words), decode, idempotent, self)

    def place(self, name: str) -> int:
        """Where in the `args` of a call the argument `name` stands."""
        return 1 + len(self.single) + len(self.families) + list(self.args).index(name)


@dataclass(slots=True)
class _Parts:
    keys: list[str] = field(default_factory=list)
    args: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, str] = field(default_factory=dict)  # file: text, includes first


def _read(name: str) -> str:
    return (resources.files("celeriac.celery_app.store") / "lua" / f"{name}.lua").read_text("utf-8")


def _gather(name: str, into: _Parts) -> None:
    if name in into.bodies:
        return
    text = _read(name)
    for line in text.splitlines():
        match = _HEADER.match(line)
        if not match:
            continue
        what, words = match.group(1), match.group(2).split()
        if what == "keys":
            _add_keys(name, words, into)
        elif what == "args":
            for word in words:
                arg, _, type_ = word.partition(":")
                if type_ not in _ENCODE or into.args.get(arg, type_) != type_:
                    raise ValueError(f"lua/{name}.lua: bad argument {word!r}: want name:{'|'.join(_ENCODE)}")
                into.args[arg] = type_
        else:
            for other in words:
                _gather(other, into)
    into.bodies[name] = text


def _add_keys(name: str, words: list[str], into: _Parts) -> None:
    for word in words:
        if word not in KEYS:
            raise ValueError(f"lua/{name}.lua: no key is called {word!r}; they are in store/keys.py")
        if word not in into.keys:
            into.keys.append(word)


def _locals(names: list[str], values: list[str]) -> str:
    return f"local {','.join(names)} = {','.join(values)}\n" if names else ""


@cache
def script(name: str) -> Script:
    """The script in `lua/{name}.lua`, with its includes."""
    parts = _Parts()
    _gather(name, parts)
    single = [key for key in parts.keys if not KEYS[key].family]
    families = [key for key in parts.keys if KEYS[key].family]
    head = _locals(single, [f"KEYS[{n}]" for n in range(1, len(single) + 1)])
    head += _locals(families, [f"ARGV[{n}]" for n in range(1, len(families) + 1)])
    first = len(families) + 1
    reads = [_LUA_READ[type_].format(n) for n, type_ in enumerate(parts.args.values(), first)]
    head += _locals(list(parts.args), reads)
    source = head + "\n".join(parts.bodies.values())
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, tuple(single), tuple(families), parts.args, source, sha)
