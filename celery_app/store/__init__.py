"""The store: every key and every script of the engine on one Redis.

`Store` and `AsyncStore` run `Call` values. The calls come in families, one module each:
instances, turns, steps, payloads, views, queues (queue triggers), flights (the transport) and audit.
The protocol is described in docs/explanation/protocol.md.
"""

from .driver import AsyncStore, Store
from .errors import ClashError, FencedError, GoneError, LimitError, StoreError, StoreFullError
from .keys import Keys
from .scripts import Call, Script, blocking, command, script

__all__ = [
    "AsyncStore",
    "Call",
    "ClashError",
    "FencedError",
    "GoneError",
    "Keys",
    "LimitError",
    "Script",
    "Store",
    "StoreError",
    "StoreFullError",
    "blocking",
    "command",
    "script",
]
