"""Owns the page to talk to: one self-contained file, put together from its parts. Knows no server.

It asks nothing of anybody but the API that it comes from. What models say is shown as text only.
"""

from functools import cache
from pathlib import Path

from sgl_specreason.results.page.parts import asset, filled, source

_HERE = Path(__file__).parent


@cache
def chat_page() -> str:
    """The page, for `GET /` of the server that has the API; it wants the header of `chat_policy`."""
    return filled(asset("chat.html", _HERE), _parts())


@cache
def chat_policy() -> str:
    """The value of the header Content-Security-Policy under which the page works: its own script and style, its own API."""
    parts = _parts()
    rules = {
        "default-src": "'none'",
        "script-src": f"{source(parts['katex'])} {source(parts['script'])}",
        "style-src": source(parts["style"]),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _parts() -> dict[str, str]:
    return {
        "style": asset("look.css") + asset("chat.css", _HERE),
        "katex": asset("katex.min.js"),
        "script": asset("mathematics.js") + asset("chat.js", _HERE),
    }
