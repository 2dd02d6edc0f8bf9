"""Who saw a worker's lease lapse: `lapses.jsonl`, by looks at `beats` while the run goes on.

A pause, the death of a beat helper or a Redis that is away excuse an activity that ran twice only where the
lease of its worker really lapsed. Each look notes until when every lease holds. A worker that is condemned or
gone at the next look, and whose lease had run out by then, lapsed; one that ended or reconnected before that
did not.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, Final

import redis

LOOK_EVERY: Final = 0.1  # seconds


class Witness:
    """One thread with a connection of its own; `close` ends it."""

    def __init__(self, url: str, hub: str, path: Path) -> None:
        self._client: Any = redis.Redis.from_url(url, socket_timeout=1)
        self._beats, self._procs = f"{hub}:beats", f"{hub}:procs"
        self._file = path.open("ab", buffering=0)
        self._pids: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()
        self._client.close()
        self._file.close()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            try:
                with self._client.pipeline(transaction=True) as both:
                    beats, procs = (
                        both.zrange(self._beats, 0, -1, withscores=True).hgetall(self._procs).execute()
                    )
            except redis.RedisError:
                continue  # the next look that succeeds compares with the last that did
            self._look({name.decode(): score / 1000 for name, score in beats}, procs, time.time())

    def _look(self, beats: dict[str, float], procs: dict[bytes, bytes], now: float) -> None:
        for name, info in procs.items():
            self._pids[name.decode()] = json.loads(info)["pid"]
        for name in self._until.keys() | beats.keys():  # condemned means 0
            if beats.get(name, 0) > 0:
                self._until[name] = beats[name]
                continue
            until = self._until.pop(name, 0)
            if 0 < until < now:
                line = {"incarnation": name, "pid": self._pids.get(name, 0), "at": until}
                self._file.write(json.dumps(line).encode() + b"\n")
