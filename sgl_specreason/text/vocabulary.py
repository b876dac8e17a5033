"""Owns how text becomes the token ids of one tokenizer, and which text may hold control tokens. Knows no engine.

An added token ("<|im_end|>", "</think>") means something only where we or a chat template wrote it. In a problem, or in what a
model of another vocabulary wrote, the same characters are characters: they are spelled out in ordinary tokens.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import orjson

from sgl_specreason.errors import UsageError
from sgl_specreason.text.steps import pieces
from sgl_specreason.text.tokenizers import Tokenizer

REMEMBERED = 65536
LEADS = ("", "\x00", "\n")
"""What a piece is encoded after, and cut off again: nothing, or a character that merges with none."""
PROBES = ("a", " a", "7", "\n\n", "the.\n", "</a>")


class Vocabulary:
    """One tokenizer's ids, piece by piece (`steps.pieces`), the pieces lately seen remembered."""

    digest: str  # equal for vocabularies in which every id means the same
    own: Callable[[str], tuple[int, ...]]  # of a piece of our own text
    plain: Callable[[str, str], tuple[int, ...]]  # of a piece of a model's

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises UsageError for a tokenizer whose ids of a piece are not those of its text."""
        self._tokenizer = tokenizer
        self._lead = _lead(tokenizer)
        self.digest = _digest(tokenizer)
        added: dict[str, int] = getattr(tokenizer, "get_added_vocab", dict)()
        # Runs of spaces or newlines are added tokens in some vocabularies: these are text, and the best way to write it.
        self._control = {word: token for word, token in added.items() if len(word) > 1 and not word.isspace()}
        self._control_ids = frozenset(self._control.values()) - {getattr(tokenizer, "unk_token_id", None)}
        longest_first = sorted(self._control, key=len, reverse=True)
        self._words = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self.own = lru_cache(maxsize=REMEMBERED)(self._encode)
        self.plain = lru_cache(maxsize=REMEMBERED)(self._spell)

    def ids(self, text: str) -> list[int]:
        """The ids of our own text, in which an added token is what it says."""
        return [token for piece in pieces(text) for token in self.own(piece)]

    def framed(self, prompt: str, contents: Sequence[slice]) -> list[int]:
        """The ids of a chat template's text around `contents`, in order, that are not ours.

        Those of the whole text where nothing in a content looks like an added token: cutting elsewhere may change them.
        """
        found: list[int] = []
        start = 0
        for end in (*self._cuts(prompt, contents), len(prompt)):
            found += self.ids(prompt[start:end])
            start = end
        borders = [0, *(border for content in contents for border in (content.start, content.stop)), len(prompt)]
        frames = [self.ids(prompt[start:end]) for start, end in zip(borders[::2], borders[1::2], strict=True)]
        if self._controls(found) == [token for frame in frames for token in self._controls(frame)]:
            return found
        apart = list(frames[0])
        for content, frame in zip(contents, frames[1:], strict=True):
            apart += [token for piece in pieces(prompt[content]) for token in self.plain(piece, "")]
            apart += frame
        return apart

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self._control_ids]

    def first_tokens(self, text: str, labels: Sequence[str]) -> list[int] | None:
        """The first token of each label after our own `text`: all different, and of a digit the only one.

        None where that is not so, or where a label merges with the text.
        """
        before, found = self.ids(text), []
        for label in labels:
            after = self.ids(text + label)
            rest = after[len(before) :]
            if after[: len(before)] != before or not rest or (label.strip().isdigit() and len(rest) != 1):
                return None
            found.append(rest[0])
        return found if len(set(found)) == len(found) else None

    def _encode(self, piece: str, /) -> tuple[int, ...]:
        return _after(self._tokenizer, self._lead, piece)

    def _spell(self, piece: str, ending: str, /) -> tuple[int, ...]:
        """The ids of a piece that is only text: no added token in it, but for `ending` where the piece ends with that."""
        if ending in self._control and piece.endswith(ending):
            return self.plain(piece.removesuffix(ending), "") + self.own(ending)
        found: list[int] = []
        start = 0
        for end in (*self._cuts(piece), len(piece)):
            found += self._without_control(piece[start:end])
            start = end
        return tuple(found)

    def _cuts(self, text: str, contents: Sequence[slice] | None = None) -> Iterator[int]:
        """Where to cut a text so that no added token (that reaches into its `contents`) is whole: after its first character."""
        left = deque(contents if contents is not None else [slice(0, len(text))])
        at = 0
        while self._words and (word := self._words.search(text, at)):
            at = word.start() + 1
            while left and left[0].stop <= word.start():
                left.popleft()
            if left and left[0].start < word.end():
                yield at

    def _without_control(self, part: str) -> tuple[int, ...]:
        """Its ids; letter by letter where the tokenizer sees an added token all the same, as one that folds case does."""
        ids = self.own(part) if part else ()
        if self._control_ids.isdisjoint(ids):
            return ids
        return tuple(token for letter in part for token in self._encode(letter))


def _after(tokenizer: Tokenizer, lead: str, piece: str) -> tuple[int, ...]:
    """The ids of a piece where it does not begin a text."""
    ids = tokenizer.encode(lead + piece, add_special_tokens=False)
    return tuple(ids[len(tokenizer.encode(lead, add_special_tokens=False)) :] if lead else ids)


def _lead(tokenizer: Tokenizer) -> str:
    """What pieces must be encoded after, so that their ids are those of their text wherever it stands.

    A tokenizer that puts a blank before every text (Llama-2, Mistral v1 to v3, Phi-3) would put one before every step.
    """
    for lead in LEADS:
        found = [(*_after(tokenizer, lead, "a"), *_after(tokenizer, lead, probe)) for probe in PROBES]
        if all(tokenizer.decode(list(ids)) == f"a{probe}" for ids, probe in zip(found, PROBES, strict=True)):
            return lead
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    raise UsageError(f"the tokenizer of {name} changes a text that is put together of pieces: it cannot be used here")


def _digest(tokenizer: Tokenizer) -> str:
    words = getattr(tokenizer, "get_vocab", lambda: None)()
    if words is None:
        return str(id(tokenizer))
    return hashlib.sha256(orjson.dumps(words, option=orjson.OPT_SORT_KEYS)).hexdigest()
