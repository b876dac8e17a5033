"""Owns how a page is put together from its parts, and what our pages share. Knows no runs and no server.

Shared are `look.css` (colours of authors, boxes), `mathematics.js` (elements, formulas) and KaTeX.
"""

import base64
import hashlib
from pathlib import Path

_HERE = Path(__file__).parent


def asset(name: str, folder: Path = _HERE) -> str:
    return (folder / name).read_text(encoding="utf-8")


def source(text: str) -> str:
    """How a Content-Security-Policy names this inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def filled(template: str, parts: dict[str, str]) -> str:
    """The template with each {{name}} replaced; what is put in is not looked at again."""
    pieces = template.split("{{")
    done = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        done += [parts[name], rest]
    return "".join(done)
