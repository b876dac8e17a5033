"""Owns one evaluation from its first engine to its last record: scheduling, progress, Ctrl-C.

Knows nothing of options or of how the method decides. Read `evaluate.py` first, then `session.py`.
"""
