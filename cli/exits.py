"""What `celeriac` exits with: one number per reason, so that scripts can tell them apart.

Those from 4 to 13 are the `exit_code` of the client's errors (orchestrations/errors.py).
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes; the values are part of the command line's contract."""

    OK = 0
    FAILED = 1  # the instance ended, but not Completed; or a check failed
    USAGE = 2  # a wrong option, malformed JSON, a bad id, a bad setting
    NOT_FOUND = 4  # no such instance
    EXISTS = 5  # an instance with this id is still running
    ENDED = 6  # the instance has ended already
    NOT_ENDED = 7  # the instance has not ended yet
    UNKNOWN_NAME = 8  # no orchestrator of this name or version
    TOO_LARGE = 9  # a value over the payload limit
    NO_REDIS = 10  # Redis does not answer, or none could be started
    BAD_REDIS = 11  # this Redis must not be used
    FULL = 12  # Redis has no memory left for this
    SEALED = 13  # a sealed value, and no codec that opens it
    TIMEOUT = 124  # it did not end in time; it goes on
    INTERRUPTED = 130  # Ctrl-C


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "the instance ended, but not Completed; or a check failed",
    Exit.USAGE: "a wrong option, malformed JSON, a bad id or setting",
    Exit.NOT_FOUND: "no such instance",
    Exit.EXISTS: "an instance with this id is still running",
    Exit.ENDED: "the instance has ended already",
    Exit.NOT_ENDED: "the instance has not ended yet",
    Exit.UNKNOWN_NAME: "no orchestrator of this name or version",
    Exit.TOO_LARGE: "a value over the payload limit",
    Exit.NO_REDIS: "Redis does not answer, or none could be started",
    Exit.BAD_REDIS: "this Redis must not be used (see celeriac doctor)",
    Exit.FULL: "Redis has no memory left for this: raise maxmemory, or purge",
    Exit.SEALED: "a value is sealed, and CELERIAC_CODEC does not open it",
    Exit.TIMEOUT: "it did not end in time; it goes on",
    Exit.INTERRUPTED: "interrupted",
}
