"""The orchestrator worker: claim instances, take their turns, commit. `worker.py` is the loop.

claim ─► reading (what turns need) ─► turning (continue or replay) ─► turns (what it means) ─► commit
"""
