"""The ids of a growing text: a longer context begins with the shorter one's, whatever was written how."""

from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_specreason.text.context import Contexts, Prompt
from sgl_specreason.text.vocabulary import Vocabulary

PARTS = st.lists(
    st.tuples(st.sampled_from(["a", "ab", "b\n\n", "\n\n", "\n", "abc\n\n\n", "é", ""]), st.booleans(), st.booleans()),
    max_size=12,
)


class Fake:
    """A tokenizer of one function, that remembers what it was asked."""

    def __init__(self, function: Callable[[str], list[int]], name: str = "v") -> None:
        self.function, self.name = function, name
        self.asked: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.asked.append(text)
        return self.function(text)

    def get_vocab(self) -> dict[str, int]:
        return {self.name: 0}

    def decode(self, token_ids: list[int]) -> str:
        raise NotImplementedError

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: object) -> str:
        raise NotImplementedError


def ids_of(request: Prompt) -> list[int]:
    found: list[int] = orjson.loads(orjson.dumps(request.json))
    return found


def pairs(text: str) -> list[int]:
    """A tokenizer that joins across borders: two characters are one token, so that cutting elsewhere gives other ids."""
    return [
        sum(ord(char) << (16 * at) for at, char in enumerate(text[start : start + 2]))
        for start in range(0, len(text), 2)
    ]


def letters(text: str) -> list[int]:
    return [ord(char) for char in text]


def text_of(ids: list[int]) -> str:
    return "".join(chr(part) for token in ids for part in (token & 0xFFFF, token >> 16) if part)


@given(PARTS)
def test_ids_of_a_longer_context_begin_with_those_of_a_shorter_one(parts: list[tuple[str, bool, bool]]) -> None:
    """Whether the engine told the ids of what it wrote, in its own or in pieces of its own, or the text is ours."""
    vocabulary, contexts = Vocabulary(Fake(pairs)), Contexts()
    context, before = "prompt\n\n", []
    contexts.begin("base", vocabulary, context, slice(0, 3))
    for text, written, odd in parts:
        if written:
            contexts.wrote(vocabulary, text, letters(text) if odd else pairs(text))
        request = contexts.prompt("base", vocabulary, context + text + "[JUDGE]", len(context), len("[JUDGE]"))
        ids = ids_of(request)
        assert text_of(ids) == context + text + "[JUDGE]"
        assert len(request) == len(ids)
        assert ids[: len(before)] == before
        before = ids[: request.prefix.tokens]
        assert text_of(before) == context
        context += text


def test_what_an_engine_wrote_keeps_its_ids_for_every_engine_of_that_vocabulary() -> None:
    contexts = Contexts()
    first, same, other = (Fake(letters, name) for name in "vvw")
    contexts.wrote(Vocabulary(first), "step", [900, 901])
    for engine, tokenizer in (("base", first), ("small", same)):
        request = contexts.prompt(engine, Vocabulary(tokenizer), "Q\n\nstep?", 3)
        assert ids_of(request) == [*letters("Q\n\n"), 900, 901, ord("?")]
        assert tokenizer.asked == ["Q\n\n", "?"]
    assert ids_of(contexts.prompt("other", Vocabulary(other), "Q\n\nstep?", 3)) == letters("Q\n\nstep?")
    assert other.asked == ["Q\n\n", "step?"]


def test_a_text_of_ours_is_never_taken_for_one_that_was_written() -> None:
    contexts, vocabulary = Contexts(), Vocabulary(Fake(letters))
    contexts.wrote(vocabulary, "[JU", [900])
    assert ids_of(contexts.prompt("base", vocabulary, "Q[JU[JUDGE]", 1, len("[JUDGE]"))) == [
        ord("Q"),
        900,
        *letters("[JUDGE]"),
    ]


def test_only_what_is_new_is_tokenised() -> None:
    contexts, tokenizer = Contexts(), Fake(letters)
    vocabulary, context = Vocabulary(tokenizer), ""
    for number in range(50):
        context += f"step {number}\n\n"
        contexts.prompt("base", vocabulary, context, len(context))
    assert tokenizer.asked == [f"step {number}\n\n" for number in range(50)]


def test_another_text_begins_anew() -> None:
    """A context that does not go on with the last one is made whole, and right: after the prompt, or from nothing."""
    contexts, vocabulary = Contexts(), Vocabulary(Fake(letters))
    contexts.begin("base", vocabulary, "Q\n\n", slice(0, 0))
    for text in ("Q\n\none\n\n", "Q\n\nother\n\n", "R\n\n"):
        assert ids_of(contexts.prompt("base", vocabulary, text, len(text))) == letters(text)


@pytest.mark.parametrize("text", ["", "x"])
def test_a_request_of_nothing_but_context(text: str) -> None:
    request = Contexts().prompt("base", Vocabulary(Fake(letters)), text, len(text))
    assert ids_of(request) == letters(text)
