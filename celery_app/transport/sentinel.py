"""Our transport where sentinels say which Redis is the master; kombu does the asking.

Transport options beside ours: kombu's `master_name` and `sentinel_kwargs`.
"""

from __future__ import annotations

from kombu.transport import redis as kombu_redis

from .channel import Channel
from .redis import Transport

__all__ = ["SentinelChannel", "SentinelTransport"]


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """A channel whose connections go to the current master."""

    from_transport_options = tuple(
        dict.fromkeys(Channel.from_transport_options + kombu_redis.SentinelChannel.from_transport_options)
    )


class SentinelTransport(Transport):
    """The transport of `sentinel://` URLs."""

    default_port = 26379
    Channel = SentinelChannel
