"""Owns the token ids of a trajectory's growing text, for each engine: a longer context begins with the shorter one's ids.

Knows no HTTP and no models. Only what is new is tokenised; what an engine wrote keeps the ids that it wrote. Control tokens are
in our own texts only: not in a problem or a conversation, and not in what a model of another vocabulary wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from sgl_specreason.text.steps import Written, pieces
from sgl_specreason.text.vocabulary import Vocabulary

Part = Written | str
"""What stands in a context: what a model wrote, or a text of ours."""


class Prefix(NamedTuple):
    """A context that was sent: how many parts were kept, how many ids it has, and these as the inside of a JSON list ("1,2,")."""

    kept: int = 0
    tokens: int = 0
    encoded: bytes = b""

    def longer(self, kept: int, ids: Sequence[int]) -> "Prefix":
        """This context gone on to so many kept parts, by these ids."""
        if not ids:
            return self._replace(kept=kept)
        return Prefix(kept, self.tokens + len(ids), self.encoded + orjson.dumps(ids)[1:-1] + b",")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The ids of one request: a context that only grows, and those of each part that this request appends to it."""

    prefix: Prefix
    more: tuple[Sequence[int], ...] = ()

    @property
    def suffix(self) -> list[int]:
        """The ids that are appended."""
        return [token for ids in self.more for token in ids]

    @property
    def json(self) -> orjson.Fragment:
        """All of its ids as a JSON list, without encoding the context again."""
        if suffix := self.suffix:
            return orjson.Fragment(b"[%b%b]" % (self.prefix.encoded, orjson.dumps(suffix)[1:-1]))
        return orjson.Fragment(b"[%b]" % self.prefix.encoded[:-1])

    def __len__(self) -> int:
        return self.prefix.tokens + sum(map(len, self.more))


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of one trajectory, one for each engine: a prompt of its own, then what was kept, the same for all.

    `think_end` is a control token where it is the last thing that a model wrote. Holds a few bytes for each token. Safe to
    use from several threads: a prefix is replaced whole, and one that lags behind only costs time.
    """

    think_end: str = ""
    kept: list[Written] = field(default_factory=list)
    openings: dict[str, Prefix] = field(default_factory=dict)
    prefixes: dict[str, Prefix] = field(default_factory=dict)

    def begin(self, engine: str, vocabulary: Vocabulary, prompt: str, contents: Sequence[slice]) -> None:
        """The prompt that all texts of `engine` begin with; what others wrote stands at `contents`."""
        self.openings[engine] = Prefix().longer(0, vocabulary.framed(prompt, contents))

    def prompt(self, engine: str, vocabulary: Vocabulary, kept: int, more: Sequence[Part] = ()) -> Prompt:
        """The ids of the first `kept` parts after the prompt, and of what a request appends to them.

        Costs O(what is new) of tokenising. The ids of a context begin with those of every shorter one of this engine.
        """
        prefix = self.prefixes.get(engine)
        if prefix is None or prefix.kept > kept:
            prefix = self.openings.get(engine, Prefix())
        if prefix.kept < kept:
            new = [token for part in self.kept[prefix.kept : kept] for token in self.ids(vocabulary, part)]
            prefix = self.prefixes[engine] = prefix.longer(kept, new)
        return Prompt(prefix, tuple(self.ids(vocabulary, part) for part in more))

    def ids(self, vocabulary: Vocabulary, part: Part) -> Sequence[int]:
        """The ids of a part: of ours as the tokenizer has it; of a model's those that it wrote, else its text's."""
        if isinstance(part, str):
            return vocabulary.ids(part)
        if part.ids and part.vocabulary == vocabulary.digest:
            return part.ids
        *first, last = pieces(part.text) or [""]
        return [
            *(token for piece in first for token in vocabulary.plain(piece, "")),
            *vocabulary.plain(last, self.think_end),
        ]
