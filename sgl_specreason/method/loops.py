"""Owns when a thought goes round in circles (pure). Knows nothing of engines, tokens or policies."""

from collections import deque
from dataclasses import dataclass, field

from sgl_specreason.text.steps import BLANK_LINE, pieces

LOOK_TOKENS = 512
"""A thought that is written in one go is looked at so often: it may go round for this long before it is ended."""
LONGEST_CYCLE = 16
LEAST_ROUNDS = 4
LEAST_CHARACTERS = 600
LEAST_PIECES = 200
"""A loop is one cycle of up to 16 paragraphs, word for word, at least four times in a row, of which what came again has at
least 600 characters or 200 paragraphs. Why so much:

- People and models check a result twice or three times in the same words; a fourth time tells them nothing.
- Short lines come again and again in good thoughts: "Wait.", "So:", "0", "---", the rows of a table of zeros, "No." for each of
  a hundred cases. 600 characters are a hundred times "Wait." in a row, and as many as four times a paragraph of two lines.
- What is so short that 600 characters of it take longer than 200 paragraphs is no list of cases any more.
- A loop that is found late costs what the budget allows; one that is none costs the answer."""


@dataclass(slots=True)
class Loops:
    """Watches a thought as it grows; each paragraph costs as much as a few comparisons, however long the thought is.

    Paragraphs (`steps.pieces`) are compared without regard to white space, and blank ones not at all. One that is not over yet
    is looked at when it is.
    """

    _begun: str = ""
    _last: deque[str] = field(default_factory=lambda: deque(maxlen=LONGEST_CYCLE))
    # for each length of a cycle: how many of the last paragraphs say what was said that many before, and their characters
    _again: list[int] = field(default_factory=lambda: [0] * LONGEST_CYCLE)
    _characters: list[int] = field(default_factory=lambda: [0] * LONGEST_CYCLE)

    def add(self, text: str) -> bool:
        """Whether the thought ends in a loop now that `text` stands at its end; a last, unfinished paragraph may break off."""
        found, over = False, pieces(self._begun + text)
        self._begun = over.pop() if over and not over[-1].endswith(BLANK_LINE) else ""
        for piece in over:
            found = self._piece(" ".join(piece.split()))
        return found

    def _piece(self, words: str) -> bool:
        if words:
            for at, earlier in enumerate(self._last):
                same = words == earlier
                self._again[at] = self._again[at] + 1 if same else 0
                self._characters[at] = self._characters[at] + len(words) if same else 0
            self._last.appendleft(words)
        return any(
            again >= (LEAST_ROUNDS - 1) * length and (characters >= LEAST_CHARACTERS or again >= LEAST_PIECES)
            for length, (again, characters) in enumerate(zip(self._again, self._characters, strict=True), 1)
        )
