"""A fork and the threads of its process: none is at work at that moment.

Each case is a small process of its own, because it forks.
"""

from __future__ import annotations

import subprocess
import sys

BEGIN = """
import logging, os, threading, time, warnings
from celeriac.celery_app import forking

warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, which this is about
logging.basicConfig(format="%(message)s")
lock, working, waiting, end = threading.Lock(), threading.Event(), threading.Event(), threading.Event()

def fork():
    child = os.fork()
    if not child:
        os._exit(0 if lock.acquire(timeout=1) else 3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a case to its end."""
    done = subprocess.run([sys.executable, "-c", BEGIN + script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def test_a_fork_waits_for_a_thread_at_work_but_not_for_one_that_waits() -> None:
    """And a thread that has waited does not go on before the fork is over."""
    run("""
def work():
    with forking.held_off():
        with lock:
            working.set()
            time.sleep(0.5)
        with forking.allowed():
            waiting.set()
            end.wait(30)

thread = threading.Thread(target=work)
thread.start()
working.wait()
assert fork() == 0, "the child inherited a held lock"
assert waiting.is_set()
begin = time.monotonic()
assert fork() == 0
assert time.monotonic() - begin < forking.LIMIT
end.set()
thread.join()
""")


def test_a_fork_waits_for_a_limited_time_and_then_says_so() -> None:
    """An author's code may be what the thread is at."""
    done = run("""
def work():
    with forking.held_off(), lock:
        working.set()
        end.wait(30)

forking.LIMIT = 0.2
thread = threading.Thread(target=work)
thread.start()
working.wait()
assert fork() == 3
end.set()
thread.join()
assert fork() == 0
""")
    assert done.stderr.count("a child was forked although a thread of this worker") == 1


def test_a_thread_at_work_may_fork_and_its_child_may_too() -> None:
    """It does not wait for itself, and in the child nobody else is at work."""
    done = run("""
with forking.held_off():
    with forking.held_off():
        assert fork() == 0
    child = os.fork()
    if not child:
        os._exit(fork())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""")
    assert "a child was forked" not in done.stderr
