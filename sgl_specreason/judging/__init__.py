"""Owns what a judge is worth on steps that people have labelled: asked by prefill alone, nothing is generated.

Knows no command. Read `benches.py` first, then `program.py` and `worth.py`.
"""
