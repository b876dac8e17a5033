"""Owns the page that shows runs in a browser. Knows nothing of engines. Read `build.py` first."""
