"""Owns SpecReason for everyone's questions: the Python call, and the OpenAI-compatible server that stands on it.

Knows no benches and no grading. Read `call.py` first.
"""
