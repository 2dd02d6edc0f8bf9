"""Our kombu transport on Redis, and the beat that says a worker lives. `redis.py` is what kombu loads."""
