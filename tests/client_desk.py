"""What tests of the client play with: an AsyncClient as a blocking one, an engine moved by hand."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from typing import Any

from celeriac.celery_app.client.sync import AsyncClient
from celeriac.celery_app.store import Store, turns
from celeriac.celery_app.store.records import Claimed, Commit
from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import FailureDetails
from celeriac.orchestrations.history import ExecutionCompleted, ExecutionFailed, encode_event


class Awaited:
    """An AsyncClient seen as a blocking one: every verb runs on an event loop of its own thread."""

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._client = make()

    def __getattr__(self, verb: str) -> Any:
        target = getattr(self._client, verb)

        def call(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(target(*args, **kwargs), self._loop).result()

        return call

    def iterate(self, **conditions: Any) -> list[Any]:
        async def gather() -> list[Any]:
            return [state async for state in self._client.iterate(**conditions)]

        return asyncio.run_coroutine_threadsafe(gather(), self._loop).result()

    def close(self) -> None:
        self.__getattr__("close")()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Player:
    """Plays the orchestrators: claims what is ready and commits what a test says."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._numbers = itertools.count(1, 1000)

    def turn(self, *events: Any, **more: Any) -> Claimed:
        """Claim the one ready instance; commit the events it was sent, then these."""
        (claimed,) = self.claim()
        applied = [*claimed.controls, *claimed.inbox]
        commit = Commit(
            instance=claimed.instance,
            execution=claimed.execution,
            claim=claimed.claim,
            base=claimed.history_length,
            events=[*applied, *map(encode_event, events)],
            controls=len(claimed.controls),
            inbox=len(claimed.inbox),
            **more,
        )
        self.store.run(turns.commit(self.store.keys, commit))
        return claimed

    def claim(self) -> list[Claimed]:
        self.store.client.zadd(self.store.keys.beats, {"o1": 2**50})
        return self.store.run(turns.claim(self.store.keys, "o1", next(self._numbers), 10))

    def complete(self, output: Any = None) -> Claimed:
        text = None if output is None else codec.encode(output)
        return self.turn(ExecutionCompleted(output=text), status="Completed", output=text)

    def fail(self, message: str) -> Claimed:
        failure = FailureDetails(error_type="builtins.ValueError", message=message)
        return self.turn(ExecutionFailed(failure=failure), status="Failed", failure=codec.encode(failure))
