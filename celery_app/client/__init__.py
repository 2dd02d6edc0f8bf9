"""The client: start instances, look at them, talk to them, wait for them; blocking or from asyncio.

`operations.py` and its neighbours hold each verb once, as a generator that asks for store calls; `sync.py`
and `async_client.py` answer them.
"""

from .sync import AsyncClient, Client, OrchestrationFailedError, OrchestrationState, Status

__all__ = ["AsyncClient", "Client", "OrchestrationFailedError", "OrchestrationState", "Status"]
