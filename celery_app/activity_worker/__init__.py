"""What runs activities inside a Celery worker: task class, result backend, and what we change of Celery.

A finished activity goes task.py ─► backend.py ─► outcomes.py ─► the store; a failed one also asks
../retrying.py.
"""
