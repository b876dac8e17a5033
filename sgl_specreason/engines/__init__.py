"""Owns the SGLang servers: starting and keeping them, replicas behind a router, and one of them as a backend of the programs.

Knows nothing of scores, policies or problems. Read `endpoint.py` first, then `servers.py`.
"""
