"""Triggers turn outside happenings into client calls, once per happening. So far: Redis lists (queue.py)."""

from .message import MessageClient
from .queue import QueueTriggers

__all__ = ["MessageClient", "QueueTriggers"]
