"""Owns replays: trajectories that follow given lengths and verdicts on real engines, to measure what they cost.

Knows no answers and no accuracy. Read `trace.py` first, then `trajectory.py`.
"""
