"""Owns the page to talk to: one self-contained file, put together from its parts. Knows no server."""
