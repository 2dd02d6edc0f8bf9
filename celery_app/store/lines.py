"""Lines: the connections that a store's calls go over directly, past redis-py's client.

They are connections of redis-py, made, connected and counted by the client's own pool (so TLS, logins,
Sentinel, time-outs and health checks are its), but kept here between calls. Left out is what the client does
around each command beside sending and reading it: half of its time for a single call, two thirds for a long
pipeline (docs/decisions/008).

The laws of a line:

- it is kept only after all its replies were read; in any doubt (an error, or an exception that a signal
  raised in the middle) it is cut and goes back to the pool, so nobody ever reads another's reply;
- before it is used again it is looked at: one that Redis hung up on, or that leads to a demoted master,
  is replaced, and the call does not fail;
- a forked process never uses a line of its parent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import hiredis
import redis
from redis.exceptions import DataError, RedisError, ResponseError

__all__ = ["Lines", "read_reply"]

WRITE = 65536  # bytes to gather before they are written


class Lines:
    """Sends commands over kept connections; safe to share between threads. See `Lines.of`."""

    def __init__(self, pool: Any, callbacks: Any, keep: int) -> None:
        self._pool, self._callbacks, self._keep = pool, callbacks, keep
        self._idle: list[Any] = []  # the last one used at the end; append and pop are atomic

    @staticmethod
    def of(client: redis.Redis, keep: int) -> Lines:
        """The lines of a client: the same for everybody who uses it, for they are of its pool.

        At most `keep` connections stay out of the pool while idle.
        """
        found = _made.get(client)
        if found is None:
            found = _made.setdefault(client, Lines(client.connection_pool, client.response_callbacks, keep))
        return found

    def send(self, words: tuple[Any, ...]) -> Any:
        """The reply to one command. Raises redis-py's error: that of the reply, or of a lost connection."""
        (reply,) = self._exchange([_packed(words)], 1)
        if isinstance(reply, ResponseError):
            try:
                raise reply
            finally:
                del reply  # it would keep this frame, and this frame it
        return self._read(words, reply)

    def send_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies to commands written at once; an error reply as a value. Raises for a lost line."""
        replies = self._exchange(_joined(commands), len(commands))
        return [self._read(words, reply) for words, reply in zip(commands, replies, strict=True)]

    def _exchange(self, packed: list[bytes], count: int) -> list[Any]:
        """Write everything, then read as many replies."""
        line = self._take()
        try:
            line.send_packed_command(packed)
            replies = [read_reply(line) for _ in range(count)]
        except BaseException:
            self._cut(line)
            raise
        if len(self._idle) < self._keep:
            self._idle.append(line)
        else:
            self._pool.release(line)
        return replies

    def _read(self, words: tuple[Any, ...], reply: Any) -> Any:
        """The reply as redis-py's client would give it."""
        if words[0] == "EVALSHA" or isinstance(reply, Exception):
            return reply
        name, callbacks = words[0], self._callbacks
        return callbacks[name](reply) if name in callbacks else reply

    def _take(self) -> Any:
        """A connection that is open and has nothing to read."""
        process = os.getpid()
        while True:
            try:
                line = self._idle.pop()
            except IndexError:
                return self._pool.get_connection()
            if line.pid == process and self._is_fit(line):
                return line

    def _is_fit(self, line: Any) -> bool:
        """Whether an idle line may be used; if not, it is cut."""
        fit = False
        try:
            # A pool of Sentinel no longer owns what leads to another than the master.
            fit = self._pool.owns_connection(line) and not line.can_read()
        except (RedisError, OSError):
            return False
        finally:
            if not fit:
                self._cut(line)
        return fit

    def _cut(self, line: Any) -> None:
        """Close it and give it back: the pool connects it anew when it is wanted."""
        line.disconnect()
        self._pool.release(line)


_made: WeakKeyDictionary[redis.Redis, Lines] = WeakKeyDictionary()  # Lines must not hold their client


def read_reply(line: Any) -> Any:
    """The next reply; an error reply as a value, so that the replies behind it are read too."""
    try:
        return line.read_response()
    except ResponseError as error:
        return error


def _packed(words: tuple[Any, ...]) -> bytes:
    try:
        return hiredis.pack_command(words)
    except TypeError as error:  # a word that is neither text, bytes nor a number
        raise DataError(str(error)) from error


def _joined(commands: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """The commands in few pieces: each is a write of its own."""
    out: list[bytes] = []
    pieces: list[bytes] = []
    size = 0
    for words in commands:
        piece = _packed(words)
        pieces.append(piece)
        size += len(piece)
        if size >= WRITE:
            out.append(b"".join(pieces))
            pieces, size = [], 0
    if pieces:
        out.append(b"".join(pieces))
    return out
