"""The ids of a growing text: a longer context begins with the shorter one's, whatever was written how."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_specreason.context import Contexts

PARTS = st.lists(
    st.tuples(st.sampled_from(["a", "ab", "b\n\n", "\n\n", "\n", "abc\n\n\n", "é", ""]), st.booleans(), st.booleans()),
    max_size=12,
)


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
    contexts = Contexts()
    context, before = "prompt\n\n", []
    for text, written, odd in parts:
        if written:
            contexts.wrote("v", text, letters(text) if odd else pairs(text))
        request = contexts.prompt("base", "v", pairs, context + text + "[JUDGE]", len(context))
        ids = orjson.loads(orjson.dumps(request.json))
        assert text_of(ids) == context + text + "[JUDGE]"
        assert len(request) == len(ids)
        assert ids[: len(before)] == before
        before = ids[: request.prefix.tokens]
        assert text_of(before) == context
        context += text


def test_what_an_engine_wrote_keeps_its_ids_for_every_engine_of_that_vocabulary() -> None:
    contexts = Contexts()
    contexts.wrote("v", "step", [900, 901])
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return letters(text)

    for engine in ("base", "small"):
        request = contexts.prompt(engine, "v", encode, "Q\n\nstep?", 3)
        assert orjson.loads(orjson.dumps(request.json)) == [*letters("Q\n\n"), 900, 901, ord("?")]
    other = contexts.prompt("other", "w", encode, "Q\n\nstep?", 3)
    assert orjson.loads(orjson.dumps(other.json)) == letters("Q\n\nstep?")
    assert asked == ["Q\n\n", "?", "Q\n\n", "?", "Q\n\n", "step?"]


def test_only_what_is_new_is_tokenised() -> None:
    contexts, asked = Contexts(), []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return letters(text)

    context = ""
    for number in range(50):
        context += f"step {number}\n\n"
        contexts.prompt("base", "v", encode, context, len(context))
    assert asked == [f"step {number}\n\n" for number in range(50)]


def test_another_text_begins_anew() -> None:
    """A context that does not go on with the last one is made whole, and right."""
    contexts = Contexts()
    contexts.prompt("base", "v", letters, "one\n\n", 5)
    request = contexts.prompt("base", "v", letters, "other\n\n", 7)
    assert orjson.loads(orjson.dumps(request.json)) == letters("other\n\n")


@pytest.mark.parametrize("text", ["", "x"])
def test_a_request_of_nothing_but_context(text: str) -> None:
    request = Contexts().prompt("base", "v", letters, text, len(text))
    assert orjson.loads(orjson.dumps(request.json)) == letters(text)
