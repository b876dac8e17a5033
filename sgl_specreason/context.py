"""Owns the token ids of a trajectory's growing text, for each engine: a longer context begins with the shorter one's ids.

Knows no HTTP and no models. Only what is new is tokenised; what an engine wrote keeps the ids that it wrote.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from sgl_specreason.steps import first_piece

Encode = Callable[[str], Sequence[int]]
RECENT = 16


class Prefix(NamedTuple):
    """A context that was sent: its text, how many ids it has, and these as the inside of a JSON list ("1,2,3,")."""

    text: str = ""
    tokens: int = 0
    encoded: bytes = b""


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

    Holds a few bytes for each token. Safe to use from several threads: a prefix is replaced whole, and one that lags
    behind only costs time.
    """

    prefixes: dict[str, Prefix] = field(default_factory=dict)
    written: dict[str, deque[tuple[str, Sequence[int]]]] = field(default_factory=dict)

    def wrote(self, vocabulary: str, text: str, ids: Sequence[int]) -> None:
        """Remembers the ids that an engine wrote `text` with: encoding it again may give others, which are not cached."""
        if text and ids:
            self.written.setdefault(vocabulary, deque(maxlen=RECENT)).appendleft((text, ids))

    def prompt(self, engine: str, vocabulary: str, encode: Encode, text: str, context: int) -> Prompt:
        """The ids of `text`, of which the first `context` characters are what the trajectory has kept so far.

        Costs O(what is new) of tokenising. The ids of the context begin with those of every earlier context of this
        engine that is the beginning of its text.
        """
        prefix = self.prefixes.get(engine, Prefix())
        if not text.startswith(prefix.text) or len(prefix.text) > context:
            prefix = Prefix()
        new = self._ids(vocabulary, encode, text[len(prefix.text) : context])
        if new:
            encoded = prefix.encoded + orjson.dumps(new)[1:-1] + b","
            prefix = Prefix(text[:context], prefix.tokens + len(new), encoded)
            self.prefixes[engine] = prefix
        return Prompt(prefix, self._ids(vocabulary, encode, text[context:]))

    def length(self, vocabulary: str, encode: Encode, text: str) -> int:
        """How many ids `text` has where it is the beginning of what a request appends."""
        return len(self._ids(vocabulary, encode, text))

    def _ids(self, vocabulary: str, encode: Encode, text: str) -> list[int]:
        """The ids of `text`: those it was written with where it begins with a text lately written, else piece by piece."""
        found: list[int] = []
        recent = tuple(self.written.get(vocabulary, ()))
        at = 0
        while at < len(text):
            known = [(len(written), ids) for written, ids in recent if text.startswith(written, at)]
            if known:
                length, ids = max(known, key=lambda pair: pair[0])
            else:
                piece = first_piece(text, at)
                length, ids = len(piece), encode(piece)
            found += ids
            at += length
        return found
