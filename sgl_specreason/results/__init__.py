"""Owns what a run leaves behind: the run folder, grading, statistics, tables, calibration, the page.

Knows no engine and needs none. Read `records.py` first, then `summary.py`.
"""
