"""Owns everything that is settled before anything starts: benches, pairs, cards and memory, and the plan that they make.

Starts nothing and knows no results. Read `plan.py` first, then `resolve.py`.
"""
