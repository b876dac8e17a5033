"""Owns how a table reads in a page. Knows no runs."""

import html
from collections.abc import Iterator

from sgl_specreason.results.layout import Table


def table_html(table: Table, *, skip: int = 0) -> Iterator[str]:
    """A table with its notes under it, without the first `skip` of these."""
    titles, *rows = ([html.escape(cell) for cell in row] for row in table.rows)
    yield "<div class=scroll tabindex=0 role=region aria-label=Table><table><thead><tr>"
    yield "".join(f"<th scope=col>{title}</th>" for title in titles)
    yield "</tr></thead><tbody>"
    for name, *cells in rows:
        yield f"<tr><th scope=row>{name}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield "</tbody></table></div><ul class=notes>"
    yield from (f"<li>{html.escape(note)}</li>" for note in table.notes[skip:])
    yield "</ul>"
