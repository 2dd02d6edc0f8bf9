"""The one door between the product and Redis: every command of every simulated process goes through a gate.

`GatedStore` is the real Store on a real Redis. It sends the commands of a pipeline one by one, gives every
script the virtual time as its `now`, and never blocks. The gate may let a command through, end the
process before or after it, or lose the connection before or after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import redis
from celery.exceptions import WorkerTerminate
from redis.exceptions import NoScriptError, ResponseError
from virtual import Virtual

from celeriac.celery_app.store import Call, Keys, Store
from celeriac.celery_app.transport.intake import refusal

_lines: WeakKeyDictionary[redis.Redis, Any] = WeakKeyDictionary()  # a connection of each client


class Killed(WorkerTerminate):
    """The simulated process ends here. Of Celery's kind, because only that leaves a solo pool as it is."""


class Gate(Protocol):
    """Decides what becomes of a command."""

    def send(self, who: Any, what: str, apply: Callable[[], Any]) -> Any:
        """Let `apply` send the command, or raise Killed or redis' ConnectionError before or after it."""
        ...

    def blocked(self, who: Any, seconds: float) -> None:
        """A blocking command found nothing and waits for so long."""
        ...


class GatedStore(Store):
    """A Store whose commands pass a gate."""

    def __init__(
        self, client: redis.Redis, keys: Keys, url: str, virtual: Virtual, gate: Gate, who: Any
    ) -> None:
        super().__init__(client, keys, url)
        self._virtual, self._gate, self._who = virtual, gate, who

    def send(self, call: Call[Any]) -> Any:
        """As the transport's channel sends: once, with the errors it would see."""
        try:
            return call.decode(self._send(call))
        except ResponseError as error:
            raise refusal(error) from error

    def pipeline(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """The raw replies to several calls sent at once; a refusal as a value."""
        return self._send_all(calls)

    def _send(self, call: Call[Any]) -> Any:
        if call.script is None:
            return self._plain(call.args)
        # The time is that of its arrival, as Redis has it: a process may stand still before it sends.
        arrive = lambda: self._evaluate(call.script, self._in_time(call))  # noqa: E731
        return self._gate.send(self._who, call.script.name, arrive)

    def _send_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        replies: list[Any] = []
        for call in calls:
            try:
                replies.append(self._send(call))
            except ResponseError as error:
                replies.append(error)
        return replies

    def _in_time(self, call: Call[Any]) -> tuple[Any, ...]:
        """The script's arguments, with the virtual time where it would ask Redis for the time."""
        script, args = call.script, list(call.args)
        assert script is not None
        if "now" in script.args:
            place = 1 + len(script.single) + len(script.families) + list(script.args).index("now")
            if args[place] == 0:
                args[place] = self._virtual.ms
        return tuple(args)

    def _evaluate(self, script: Any, args: tuple[Any, ...]) -> Any:
        try:
            return self._execute("EVALSHA", script.sha, *args)
        except NoScriptError:
            return self._execute("EVAL", script.source, *args)

    def _execute(self, *words: Any) -> Any:
        """Over the connection that all stores of a client share: only one process runs at a time. A quarter
        of what redis-py's pool, retries and metrics cost, and a run is little else than commands.
        """
        if str(words[0]) in self.client.response_callbacks:
            return self.client.execute_command(*words)
        line = _lines.get(self.client)
        if line is None:
            line = _lines[self.client] = self.client.connection_pool.get_connection()
        line.send_packed_command(line.pack_command(*words), check_health=False)
        return line.read_response()

    def _plain(self, words: tuple[Any, ...]) -> Any:
        name = words[0].decode() if isinstance(words[0], bytes) else str(words[0])
        if name == "TIME":
            return self._gate.send(
                self._who, name, lambda: (self._virtual.ms // 1000, self._virtual.ms % 1000 * 1000)
            )
        if name in ("BRPOP", "BLMOVE"):
            return self._blocking(name, words)
        return self._gate.send(self._who, name, lambda: self._execute(*words))

    def _blocking(self, name: str, words: tuple[Any, ...]) -> Any:
        """A look at the keys; if there is nothing, a wait, and another look."""
        reply = self._gate.send(self._who, name, lambda: self._look(name, words))
        if reply is None:
            self._gate.blocked(self._who, float(words[-1]))
            reply = self._look(name, words)
        return reply

    def _look(self, name: str, words: tuple[Any, ...]) -> Any:
        if name == "BLMOVE":
            return self._execute("LMOVE", *words[1:-1])
        for key in words[1:-1]:
            value = self._execute("RPOP", key)
            if value is not None:
                return [key, value]
        return None
