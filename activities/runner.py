"""Runs one attempt of an activity: JSON arguments in, JSON result out, exceptions as they are.

Async activities of a process all run on one event loop, in a thread of its own that lives as long as the
process, so that what an activity keeps open (a client, a pool) stays usable by the next one. The loop is
made at first use and forgotten in a forked child, which makes its own.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any

from celeriac.orchestrations import codec
from celeriac.orchestrations.errors import CodecError

from .context import ActivityContext
from .model import Activity, bind_context

__all__ = ["run_activity", "stop_loop"]


def run_activity(activity: Activity[..., Any], call_text: str, context: ActivityContext) -> str:
    """Decode the arguments, run the function with `context` current, encode its result; raises what it
    raises.
    """
    args, kwargs = codec.decode_call(call_text, activity.function)
    wanted = activity.signature_.injected
    with context.active():
        if wanted:
            result = bind_context(activity.function, wanted, context, tuple(args), kwargs)
        else:
            result = activity.function(*args, **kwargs)
        if asyncio.iscoroutine(result):
            result = _LOOP.run(result)
    try:
        return codec.encode(result)
    except CodecError as error:
        raise CodecError(f"the result of activity '{activity.name}': {error}") from error


class _Loop:
    """One event loop in a daemon thread, started at first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Wait for the coroutine; if the wait is interrupted (a time limit), the coroutine is cancelled."""
        # The coroutine inherits this thread's context variables: call_soon_threadsafe copies them here.
        future = asyncio.run_coroutine_threadsafe(_contained(coroutine), self._running())
        try:
            return future.result()
        except _Exited as exited:
            raise exited.error from None
        except concurrent.futures.CancelledError:
            raise RuntimeError(
                "the activity was cancelled from inside: it raised asyncio.CancelledError"
            ) from None
        finally:
            if not future.done():
                future.cancel()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="celeriac-activities", daemon=True
                )
                self._thread.start()
            return self._loop

    def stop(self) -> None:
        """Cancel what runs, end the thread, close the loop. The next use starts afresh."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(timeout=5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)
        if not loop.is_running():
            loop.close()

    def forget(self) -> None:
        """In a forked child: the thread did not come along, and the lock may be held by nobody."""
        self._lock, self._thread, self._loop = threading.Lock(), None, None


class _Exited(Exception):
    """Carries a SystemExit or KeyboardInterrupt out of the loop, which it would end."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__(error)


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise _Exited(error) from error


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


_LOOP = _Loop()
stop_loop = _LOOP.stop
os.register_at_fork(after_in_child=_LOOP.forget)
atexit.register(stop_loop)
