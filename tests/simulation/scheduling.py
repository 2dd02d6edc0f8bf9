"""Simulated processes that take turns command by command, in an order that a seed decides.

Every actor is a thread, but only one ever runs: at each Redis command, and whenever it sleeps, it draws the
next one and hands over. So a run is a function of its seed. At a command the dice may also strike the
process: it dies before or after, loses its connection before or after, or stands still beyond its lease.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gated import Killed
from processes import Process
from redis.exceptions import ConnectionError as RedisConnectionError
from virtual import START, Virtual

LONGEST = 1800.0  # virtual seconds of a run
STAY = 0.4  # chance that the same actor goes on
KINDS = ("dies before", "dies after", "lost before", "lost after", "pauses")
AGAIN = 0.1  # chance of another fault at each command of a process that was struck, and of one of a client
AIMED = 0.2  # chance of the fault that a seed prefers, at the command that it prefers
PAUSE = (11.0, 25.0)  # virtual seconds; a lease is 10


@dataclass(eq=False)
class Actor:
    """One thread of the simulation."""

    name: str
    process: Process
    wake: int  # the virtual time from which it may run
    go: Any = field(default_factory=threading.Lock)  # held, but for the moment of its turn

    def __post_init__(self) -> None:
        self.go.acquire()


class Scheduler:
    """The gate of a simulation."""

    def __init__(self, virtual: Virtual, seed: int, rate: float, budget: int) -> None:
        self.virtual, self.dice = virtual, random.Random(f"scheduler {seed}")
        self.rate, self.budget = rate, budget
        self.actors: list[Actor] = []
        self.current: Actor | None = None
        self.trace: list[str] = []
        self.struck: list[str] = []
        self.aim = ""  # a fault and the name of a command, which it strikes often
        self.cut: set[str] = set()  # processes whose connection breaks at their next command
        self.shaken: set[str] = set()  # processes that were struck: trouble comes in twos, while one recovers
        self.failure: BaseException | None = None
        self._done = threading.Event()
        virtual.sleep = self.sleep

    # --- actors ---

    def spawn(self, process: Process, main: Callable[[], None], after: float = 0.0) -> None:
        """A new actor. `main` returns when the actor has ended; Killed ends it too."""
        actor = Actor(process.name, process, self.virtual.ms + round(after * 1000))
        self.actors.append(actor)
        threading.Thread(target=self._live, args=(actor, main), name=actor.name, daemon=True).start()

    def run(self) -> None:
        """Until no actor is left; raises what went wrong in any of them."""
        self._hand_over(None)
        self._done.wait()
        self.current = None
        if self.failure is not None:
            raise self.failure

    def _live(self, actor: Actor, main: Callable[[], None]) -> None:
        actor.go.acquire()
        try:
            if self.failure is None:
                main()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  raised by run(), in the test's own thread
            self.failure = self.failure or error
        self.actors.remove(actor)
        self._hand_over(None)

    def _hand_over(self, me: Actor | None) -> None:
        chosen = self._choose(me)
        if chosen is me and me is not None:
            return
        self.current = chosen
        if chosen is None:
            self._done.set()
        else:
            chosen.go.release()
        if me is not None:
            me.go.acquire()

    def _choose(self, me: Actor | None) -> Actor | None:
        if not self.actors:
            return None
        virtual = self.virtual
        ready = [actor for actor in self.actors if actor.wake <= virtual.ms]
        if not ready:
            virtual.ms = min(actor.wake for actor in self.actors)
            ready = [actor for actor in self.actors if actor.wake <= virtual.ms]
        if virtual.ms - START > LONGEST * 1000 and self.failure is None:
            self.failure = AssertionError(f"stuck: {LONGEST} virtual seconds have passed")
        if me in ready and self.dice.random() < STAY:
            return me
        return self.dice.choice(ready)

    def sleep(self, seconds: float) -> None:
        """The running actor sleeps; outside of a run time just passes."""
        if self.current is None:
            self.virtual.advance(seconds)
        else:
            self._pass(self.current, max(1, round(seconds * 1000)))

    def _pass(self, actor: Actor, milliseconds: int) -> None:
        actor.wake = self.virtual.ms + milliseconds
        self._hand_over(actor)
        if self.failure is not None:
            actor.process.dead = True
            raise Killed

    # --- the gate ---

    def send(self, who: Process, what: str, apply: Callable[[], Any]) -> Any:
        """Let others go first, perhaps; then send the command, or strike."""
        actor = self.current
        if actor is None:
            return apply()
        self._pass(actor, self.dice.choice((0, 0, 0, 1, 3)) * who.drag)
        if who.dead:
            raise Killed
        kind = self._fault(who, what)
        self.trace.append(f"{self.virtual.ms - START} {who.name} {what} {kind}".rstrip())
        if kind:
            self.struck.append(self.trace[-1])
        if kind == "pauses":
            who.paused = True
            self._pass(actor, round(self.dice.uniform(*PAUSE) * 1000))
            who.paused = False
        return self._strike(who, kind, apply)

    def _fault(self, who: Process, what: str) -> str:
        if who.name in self.cut:
            self.cut.discard(who.name)
            return "lost before"
        rate = AGAIN if who.name in self.shaken or who.name.startswith("client") else self.rate
        aimed, _, command = self.aim.rpartition(" ")
        aimed = aimed if command == what and not who.helper and self.dice.random() < AIMED else ""
        if self.budget <= 0 or not (aimed or self.dice.random() < rate):
            return ""
        self.budget -= 1
        self.shaken.add(who.name)
        return aimed or self.dice.choice(KINDS[2:4] if who.helper else KINDS)

    def _strike(self, who: Process, kind: str, apply: Callable[[], Any]) -> Any:
        if kind == "lost before":
            raise RedisConnectionError("the connection was cut before this command")
        reply = apply() if kind != "dies before" else None
        if kind == "lost after":
            raise RedisConnectionError("the connection was cut before the reply")
        if kind.startswith("dies"):
            who.dead = True
            raise Killed
        return reply

    def blocked(self, who: Process, seconds: float) -> None:
        """A blocking command waits; a push may wake it before its time is over."""
        self.sleep(seconds * self.dice.choice((1.0, 1.0, 1.0, self.dice.random())))
