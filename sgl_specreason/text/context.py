"""Owns the token ids of a trajectory's growing text, for each engine: a longer context begins with the shorter one's ids.

Knows no HTTP and no models. Only what is new is tokenised; what an engine wrote keeps the ids that it wrote. Control tokens are
in our own texts only: not in the problem, and not in what a model of another vocabulary wrote.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from sgl_specreason.text.steps import first_piece
from sgl_specreason.text.vocabulary import Vocabulary

RECENT = 16


class Prefix(NamedTuple):
    """A context that was sent: its text, how many ids it has, and these as the inside of a JSON list ("1,2,3,")."""

    text: str = ""
    tokens: int = 0
    encoded: bytes = b""

    def longer(self, text: str, ids: Sequence[int]) -> "Prefix":
        """This context gone on to `text`, by these ids."""
        if not ids:
            return self
        return Prefix(text, self.tokens + len(ids), self.encoded + orjson.dumps(ids)[1:-1] + b",")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The ids of one request: a context that only grows, and what this request appends to it."""

    prefix: Prefix
    suffix: list[int]

    @property
    def json(self) -> orjson.Fragment:
        """All of its ids as a JSON list, without encoding the context again."""
        if not self.suffix:
            return orjson.Fragment(b"[%b]" % self.prefix.encoded[:-1])
        return orjson.Fragment(b"[%b%b]" % (self.prefix.encoded, orjson.dumps(self.suffix)[1:-1]))

    def __len__(self) -> int:
        return self.prefix.tokens + len(self.suffix)


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of one trajectory, one for each engine, and the texts lately written in each vocabulary with their ids.

    `think_end` is a control token where it is the last thing that a model wrote. Holds a few bytes for each token. Safe to
    use from several threads: a prefix is replaced whole, and one that lags behind only costs time.
    """

    think_end: str = ""
    openings: dict[str, Prefix] = field(default_factory=dict)
    prefixes: dict[str, Prefix] = field(default_factory=dict)
    written: dict[str, deque[tuple[str, Sequence[int]]]] = field(default_factory=dict)

    def begin(self, engine: str, vocabulary: Vocabulary, prompt: str, content: slice) -> None:
        """The prompt that all texts of `engine` begin with; the user's message stands at `content`."""
        self.openings[engine] = Prefix().longer(prompt, vocabulary.framed(prompt, content))

    def wrote(self, vocabulary: Vocabulary, text: str, ids: Sequence[int]) -> None:
        """Remembers the ids that an engine wrote `text` with: encoding it again may give others, which are not cached."""
        if text and ids:
            self.written.setdefault(vocabulary.digest, deque(maxlen=RECENT)).appendleft((text, ids))

    def prompt(self, engine: str, vocabulary: Vocabulary, text: str, context: int, own: int = 0) -> Prompt:
        """The ids of `text`, of which the first `context` characters are what the trajectory has kept so far.

        The last `own` characters are ours; between the prompt and these is what models wrote. Costs O(what is new) of
        tokenising. The ids of the context begin with those of every earlier context of this engine that is the beginning
        of its text.
        """
        known = (self.prefixes.get(engine), self.openings.get(engine))
        prefix = next(
            (p for p in known if p is not None and len(p.text) <= context and text.startswith(p.text)), Prefix()
        )
        border = len(text) - own
        new = self._between(vocabulary, text, len(prefix.text), context, border)
        if new:
            prefix = self.prefixes[engine] = prefix.longer(text[:context], new)
        return Prompt(prefix, self._between(vocabulary, text, context, len(text), border))

    def length(self, vocabulary: Vocabulary, text: str) -> int:
        """How many ids `text`, written by a model, has where a request appends it and then nothing but our own text."""
        return len(self._written(vocabulary, text, self.think_end))

    def _between(self, vocabulary: Vocabulary, text: str, start: int, end: int, border: int) -> list[int]:
        """The ids of `text[start:end]`, of which what stands before `border` is a model's and the rest ours."""
        middle = min(max(start, border), end)
        ending = self.think_end if middle == border else ""
        return self._written(vocabulary, text[start:middle], ending) + vocabulary.ids(text[middle:end])

    def _written(self, vocabulary: Vocabulary, text: str, ending: str) -> list[int]:
        """The ids of a model's text: those it was written with where it begins with a text lately written, else piece by piece.

        `ending` is a control token where it ends the text.
        """
        found: list[int] = []
        recent = tuple(self.written.get(vocabulary.digest, ()))
        at = 0
        while at < len(text):
            known = [(len(written), ids) for written, ids in recent if text.startswith(written, at)]
            if known:
                length, ids = max(known, key=lambda pair: pair[0])
            else:
                piece = first_piece(text, at)
                length = len(piece)
                ids = vocabulary.plain(piece, ending if at + length == len(text) else "")
            found += ids
            at += length
        return found
