"""Owns how a table of cells is laid out: as text that fits a terminal, and as Markdown. Knows nothing of runs."""

import textwrap
from dataclasses import dataclass
from typing import Any

WIDTH = 100
GAP = INDENT = "  "
WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
"""Paths and hashes stay what they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells, the first of titles and the first of each a name; the conditions under them, and what stands above.

    Names are folded where the text would have more than `width` characters.
    """

    rows: list[list[str]]
    notes: list[str]
    title: str = ""
    width: int | None = WIDTH

    def text(self) -> str:
        """Aligned columns, the notes under them."""
        widths, lines = self._widths(), self.rows[:1]
        if self.width is not None:
            room = self.width - sum(widths[1:]) - len(GAP) * len(widths[1:])
            widths[0] = min(widths[0], max(room, len(lines[0][0])))
        for name, *cells in self.rows[1:]:
            first, *below = textwrap.wrap(name, widths[0], subsequent_indent=INDENT, **WHOLE)
            if max(map(len, [first, *below])) > widths[0]:  # no part of a name is cut: it has lines of its own
                lines += [[line] for line in textwrap.wrap(name, self.width or WIDTH, **WHOLE)]
                first, below = "", []
            lines += [[first, *cells], *([line] for line in below)]
        table = [GAP.join(_aligned(line, widths)).rstrip() for line in lines]
        notes = [line for note in self.notes for line in textwrap.wrap(note, WIDTH, subsequent_indent=INDENT, **WHOLE)]
        return "\n".join([*self._above(), *table, "", *notes]) + "\n"

    def markdown(self) -> str:
        """The same as a Markdown table."""
        widths = self._widths()
        lines = [f"| {' | '.join(_aligned(row, widths))} |" for row in self.rows]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        head = [*self._above(), lines[0], f"| {' | '.join(rule)} |"]
        return "\n".join([*head, *lines[1:], "", *self.notes]) + "\n"

    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(*self.rows, strict=True)]

    def _above(self) -> list[str]:
        return [self.title, ""] if self.title else []


def _aligned(cells: list[str], widths: list[int]) -> list[str]:
    """The first cell to the left, the others to the right."""
    return [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=False))]
