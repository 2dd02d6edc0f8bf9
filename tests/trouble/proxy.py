"""A TCP proxy before a Redis that loses replies, goes silent, and shuts its door.

It runs an event loop in a thread of its own; its methods may be called from the test. It counts commands and
replies, so that it can let Redis apply one certain call and lose exactly its answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import Counter
from typing import Any

import hiredis

from celeriac.celery_app.store import script

CHUNK = 1 << 16


class Link:
    """One connection of a client, and the one to Redis behind it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy, self.reader, self.writer = proxy, reader, writer
        self.silent = False
        self.commands = self.replies = self.lose_at = 0

    async def run(self) -> None:
        """Carry both ways until either end hangs up."""
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self.proxy.upstream)
        except OSError:
            self.writer.transport.abort()
            return
        requests = asyncio.create_task(self._requests(forth))
        answers = asyncio.create_task(self._answers(back))
        try:
            await asyncio.wait([requests, answers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (requests, answers):
                task.cancel()
            await asyncio.gather(requests, answers, return_exceptions=True)
            for writer in (forth, self.writer):
                writer.transport.abort()

    async def _requests(self, forth: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await self.reader.read(CHUNK):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                self.commands += 1
                if not self.lose_at and self.proxy.is_to_lose(command):
                    self.lose_at = self.commands
            if not self.silent:
                forth.write(data)
                await forth.drain()

    async def _answers(self, back: asyncio.StreamReader) -> None:
        parser = hiredis.Reader()
        while data := await back.read(CHUNK):
            parser.feed(data)
            while parser.gets() is not False:
                self.replies += 1
            if self.lose_at:
                if self.replies >= self.lose_at:
                    return  # Redis has applied it, and nobody will know
            elif not self.silent:
                self.writer.write(data)
                await self.writer.drain()


class Proxy:
    """Listens on a port of its own for as long as it lives; `upstream` is the port of the Redis behind it."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = 0
        self.attempts: list[float] = []  # when somebody knocked at the closed door
        self.lost: Counter[str] = Counter()  # by script: answers that were lost
        self._links: set[Link] = set()
        self._shut = False
        self._to_lose: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def lose(self, name: str, times: int = 1) -> None:
        """Lose the answer to the next calls of this script."""
        self._to_lose[script(name).sha] += times

    def is_to_lose(self, command: Any) -> bool:
        """Whether the answer to this command is one of those; counts it."""
        word = command[0].upper()
        if word not in (b"EVALSHA", b"EVAL"):
            return False
        sha = command[1].decode() if word == b"EVALSHA" else hashlib.sha1(command[1]).hexdigest()
        if not self._to_lose[sha]:
            return False
        self._to_lose[sha] -= 1
        self.lost[sha] += 1
        return True

    def times_lost(self, name: str) -> int:
        return self.lost[script(name).sha]

    def shut(self) -> None:
        """Cut every connection and let nobody in."""
        self._shut = True
        self.cut()

    def open(self) -> None:
        """Let them in again."""
        self._shut = False

    def cut(self) -> None:
        """Cut every connection."""
        self._loop.call_soon_threadsafe(self._abort)

    def go_silent(self) -> None:
        """Connections that there are now carry nothing any more, and nobody is told (half-open)."""
        for link in tuple(self._links):
            link.silent = True

    def close(self) -> None:
        """End it."""
        self._abort_and_stop()
        self._thread.join(10)
        self._loop.close()

    def _abort(self) -> None:
        for link in tuple(self._links):
            link.writer.transport.abort()

    def _abort_and_stop(self) -> None:
        async def end() -> None:
            self._server.close()
            self._abort()
            rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._shut:
            self.attempts.append(time.monotonic())
            writer.transport.abort()
            return
        link = Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run()
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._links.discard(link)
