"""Owns the page of a measurement: one file with sentences, tables and figure, without scripts and requests. Knows no engines."""

import base64
import html
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgl_specreason.judging.measured import Measured
from sgl_specreason.judging.tables import cost_table, worth_table
from sgl_specreason.paths import plots
from sgl_specreason.results.folder import write_text
from sgl_specreason.results.page.parts import asset, filled
from sgl_specreason.results.page.tables import table_html

HERE = Path(__file__).parent


def write(found: Measured, numbers: Mapping[str, Any]) -> Path:
    """Writes judge.html into the measurement's folder. Raises WriteError."""
    path = found.path / "judge.html"
    write_text(path, page(found, numbers))
    return path


def page(found: Measured, numbers: Mapping[str, Any]) -> str:
    """The page as text."""
    title = f"The judge of {found.config.settings.pair} on {found.config.settings.bench}"
    parts = {
        "title": html.escape(title),
        "style": asset("look.css") + asset("page.css"),
        "sentences": "".join(f"<li>{html.escape(words)}</li>" for words in numbers["sentences"]),
        "worth": "".join(table_html(worth_table(found, numbers), skip=len(numbers["sentences"]))),
        "cost": "".join(table_html(cost_table(found, numbers))),
        "figure": _figure(found),
    }
    return filled(asset("judge.html", HERE), parts)


def _figure(found: Measured) -> str:
    """Drawn by the checkout's `plots/` or the packaged copy."""
    folder = str(plots())
    sys.path.insert(0, folder)
    try:
        figure = importlib.import_module("labelled").labelled(found)
        image = base64.b64encode(importlib.import_module("drawing").svg(figure)).decode()
    finally:
        sys.path.remove(folder)
    return f'<figure><img alt="What the judges say" src="data:image/svg+xml;base64,{image}"></figure>'
