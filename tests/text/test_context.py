"""The ids of a growing text: a longer context begins with the shorter one's, whatever was written how."""

from collections.abc import Callable

import orjson
from hypothesis import given
from hypothesis import strategies as st

from sgl_specreason.text.context import Contexts, Prompt
from sgl_specreason.text.steps import Written
from sgl_specreason.text.vocabulary import PROBES, Vocabulary

PARTS = st.lists(
    st.tuples(st.sampled_from(["a", "ab", "b\n\n", "\n\n", "\n", "abc\n\n\n", "é", ""]), st.booleans(), st.booleans()),
    max_size=12,
)


class Fake:
    """A tokenizer of one function, that remembers what it was asked, but for a vocabulary's own probes."""

    def __init__(self, function: Callable[[str], list[int]], name: str = "v") -> None:
        self.function, self.name = function, name
        self.asked: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if text not in PROBES:
            self.asked.append(text)
        return self.function(text)

    def get_vocab(self) -> dict[str, int]:
        return {self.name: 0}

    def decode(self, token_ids: list[int]) -> str:
        return text_of(token_ids)

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
    """Whether the engine told the ids of what it wrote, in its own or in pieces of its own, or not."""
    vocabulary, contexts = Vocabulary(Fake(pairs)), Contexts()
    context, before = "prompt\n\n", []
    contexts.begin("base", vocabulary, context, (slice(0, 3),))
    for number, (text, written, odd) in enumerate(parts):
        part = Written(text, vocabulary.digest, tuple(letters(text) if odd else pairs(text)) if written else ())
        request = contexts.prompt("base", vocabulary, number, (part, "[JUDGE]"))
        ids = ids_of(request)
        assert text_of(ids) == context + text + "[JUDGE]"
        assert len(request) == len(ids)
        assert ids[: len(before)] == before
        before = ids[: request.prefix.tokens]
        assert text_of(before) == context
        contexts.kept.append(part)
        context += text
        assert ids_of(contexts.prompt("base", vocabulary, number + 1)) == [*before, *request.more[0]]


def test_what_an_engine_wrote_keeps_its_ids_for_every_engine_of_that_vocabulary() -> None:
    contexts = Contexts()
    first, same, other = (Fake(letters, name) for name in "vvw")
    step = Written("step", Vocabulary(first).digest, (900, 901))
    for engine, tokenizer in (("base", first), ("small", same)):
        request = contexts.prompt(engine, Vocabulary(tokenizer), 0, ("Q\n\n", step, "?"))
        assert ids_of(request) == [*letters("Q\n\n"), 900, 901, ord("?")]
        assert tokenizer.asked == ["Q\n\n", "?"]
    assert ids_of(contexts.prompt("other", Vocabulary(other), 0, ("Q\n\n", step, "?"))) == letters("Q\n\nstep?")
    assert other.asked == ["Q\n\n", "step", "?"]


@given(st.integers(1, 200), st.integers(0, 40))
def test_ids_are_never_found_again_by_their_text(steps: int, ahead: int) -> None:
    """However many texts come after it, and however alike they are, a part has the ids that it was written with."""
    contexts, vocabulary = Contexts(), Vocabulary(Fake(letters))
    contexts.kept.extend(Written("same", vocabulary.digest, (number,)) for number in range(steps))
    later = [Written("same", vocabulary.digest, (1000 + number,)) for number in range(ahead)]
    assert ids_of(contexts.prompt("base", vocabulary, steps, later)) == [
        *range(steps),
        *range(1000, 1000 + ahead),
    ]


def test_only_what_is_new_is_tokenised() -> None:
    contexts, tokenizer = Contexts(), Fake(letters)
    vocabulary = Vocabulary(tokenizer)
    for number in range(50):
        contexts.kept.append(Written(f"step {number}\n\n"))
        contexts.prompt("base", vocabulary, number + 1)
    assert tokenizer.asked == [f"step {number}\n\n" for number in range(50)]


def test_a_request_may_lag_behind() -> None:
    """What was begun before the last steps were kept is made without them, and right."""
    contexts, vocabulary = Contexts(), Vocabulary(Fake(letters))
    contexts.begin("base", vocabulary, "Q\n\n", ())
    contexts.kept.extend([Written("one\n\n"), Written("two\n\n")])
    for kept in (2, 1, 0, 2):
        text = "Q\n\n" + "".join(part.text for part in contexts.kept[:kept])
        assert ids_of(contexts.prompt("base", vocabulary, kept, ("now",))) == letters(text + "now")


def test_a_request_of_nothing_but_its_prompt() -> None:
    contexts, vocabulary = Contexts(), Vocabulary(Fake(letters))
    assert ids_of(contexts.prompt("base", vocabulary, 0)) == []
    contexts.begin("base", vocabulary, "x", (slice(0, 1),))
    assert ids_of(contexts.prompt("base", vocabulary, 0, ("",))) == letters("x")
