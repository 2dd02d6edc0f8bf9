"""What becomes of the messages handed to a prefork pool when the worker loses its connection or stops.

Celery then forgets every message that no child has accepted, and expects it from its broker again. But a job
that has been written to a child's pipe is run: perhaps it runs already, and only the child's word for it has
not been read yet. Given back, it would run twice. So what was written counts as started, and only what waits
in the main process for a free child goes back.
"""

from __future__ import annotations

from typing import Any

__all__ = ["release", "unheard"]


def unheard() -> list[Any]:
    """The requests of which no child has said that it runs them."""
    from celery.worker import state  # only a worker has it loaded

    return [request for request in tuple(state.reserved_requests) if request not in state.active_requests]


def release(pool: Any) -> set[str]:
    """The delivery tags that go back. The rest Celery and its pool keep from now on."""
    from celery.worker import state

    waiting = getattr(pool._pool, "outbound_buffer", ())  # billiard's pool
    for request in unheard():
        job: Any = request._apply_result() if request._apply_result is not None else None
        child = job._write_to if job is not None and job not in waiting else None
        if job is None or child is None or not child._is_alive():
            continue
        # The pool's `flush` drops the jobs that are not so marked, the consumer's `on_close` the requests.
        # What the child says later is still heard: it sets the time limits and counts the task.
        job._accepted, job._worker_pid = True, child.pid
        state.active_requests.add(request)
        if not request.task.acks_late:
            request.acknowledge()
    return {str(request.message.delivery_tag) for request in unheard()}
