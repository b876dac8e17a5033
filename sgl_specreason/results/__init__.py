"""Owns what a run leaves behind: the run folder, grading, statistics, tables, calibration, the page.

Knows no engine and needs none. Read `schema.py` first, then `records.py` and `summary.py`.
"""
