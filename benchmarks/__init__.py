"""Celeriac and raw Celery canvas side by side: see README.md for the method and its caveats."""
