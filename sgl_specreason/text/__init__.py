"""Owns text and token ids: where a step ends, prompts and chat templates, vocabularies, the ids of a growing context.

Knows no model, no score and no HTTP. Read `steps.py` first.
"""
