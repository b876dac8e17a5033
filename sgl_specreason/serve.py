"""Owns the command `python -m sgl_specreason.serve`: options in, exit code out. Nothing imports it.

Example: python -m sgl_specreason.serve --pair demo
"""
