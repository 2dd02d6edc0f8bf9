"""Signed activity messages: with a key (`CELERIAC_SIGNING_KEY`) a worker runs only what its own system sent.

The header `celeriac-sign` holds the HMAC-SHA256 of the whole message as it lies in Redis, with this header
empty. So nothing in it can be changed: id, activity, arguments, options, time limits, Celery's callbacks.
A copy of a signed message is no danger: it is run at most once, by the step's own state.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import Final

__all__ = ["SIGN_HEADER", "sign", "verifier"]

SIGN_HEADER: Final = "celeriac-sign"

# A JSON text holds these quotes unescaped only around a key and its value, never inside of one.
_EMPTY: Final = f'"{SIGN_HEADER}": ""'.encode()
_FILLED: Final = re.compile(rb'"celeriac-sign": "([0-9a-f]{64})"')


def sign(key: bytes, message: bytes) -> bytes:
    """The message, which has the header empty, with its signature."""
    head, found, rest = message.partition(_EMPTY)
    if not found:
        raise ValueError(f"the message has no empty header {SIGN_HEADER}")
    return b'%b"%b": "%b"%b' % (head, SIGN_HEADER.encode(), _digest(key, message), rest)


def verifier(key: str) -> Callable[[bytes], str] | None:
    """What tells what is wrong with the signature of a message, empty when nothing is; None without a key."""
    if not key:
        return None
    secret = key.encode()

    def verify(message: bytes) -> str:
        found = _FILLED.search(message)
        if found is None:
            return "it is not signed; is CELERIAC_SIGNING_KEY set for all orchestrators and workers?"
        bare = message[: found.start(1)] + message[found.end(1) :]
        if not hmac.compare_digest(_digest(secret, bare), found[1]):
            return "its signature does not fit: it was altered, or signed with another CELERIAC_SIGNING_KEY"
        return ""

    return verify


def _digest(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256").hex().encode()
