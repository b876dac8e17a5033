"""Owns SpecReason (arXiv 2504.07891) and its controls: programs, policy, score, and what becomes of one trajectory.

Knows no files, no processes and no command lines. Read `program.py` first.
"""
