"""Judges' answers and steps in the vocabularies that models have: small tokenizers with the rules of the published ones.

What matters is where a blank goes: before a word in one token, in a token of its own, or before every text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sgl_specreason.errors import UsageError
from sgl_specreason.method.score import DIGITS, WORDS
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.context import Contexts
from sgl_specreason.text.prompts import load_prompts
from sgl_specreason.text.steps import Written
from sgl_specreason.text.vocabulary import Vocabulary

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"  # a word has the blank before it
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTE_LEVEL = {
    "Qwen2 and 3": rf"{LETTERS}|\p{{N}}|{REST}",
    "Llama-3": rf"{LETTERS}|\p{{N}}{{1,3}}|{REST}",
    "gpt-oss": rf"{LETTERS}(?i:'s|'t)?|\p{{N}}{{1,3}}|{REST}",
    "SmolLM2": r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
WORDS_OF_OURS = ("yes", "no", "is", "last", "step", "verdict", "score")


def merges_of(words: Iterator[str]) -> list[tuple[str, str]]:
    """Merges that build each word from its letters, left to right."""
    found: dict[tuple[str, str], None] = {}
    for word in words:
        for at in range(1, len(word)):
            found[word[:at], word[at]] = None
    return list(found)


def byte_level(split: str) -> PreTrainedTokenizerFast:
    merges = merges_of(word for plain in (*WORDS_OF_OURS, *DIGITS) for word in (plain, f"Ġ{plain}"))
    vocabulary = dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ", *(a + b for a, b in merges)])
    tokenizer = Tokenizer(
        models.BPE(vocab={word: at for at, word in enumerate(vocabulary)}, merges=[*merges, ("Ċ", "Ċ")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)


def sentencepiece(*, prefix: bool, metaspace: str = "") -> PreTrainedTokenizerFast:
    """As SentencePiece has it: a blank is "▁", unknown bytes have tokens of their own; `prefix` puts a blank before a text."""
    merges = merges_of(word for plain in WORDS_OF_OURS for word in (plain, f"▁{plain}"))
    letters = ["▁", *map(chr, range(33, 127))]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    vocabulary = dict.fromkeys(["<unk>", *bytes_, *letters, *(a + b for a, b in merges)])
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: at for at, word in enumerate(vocabulary)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    blanks = decoders.Replace("▁", " ")
    first = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([blanks, decoders.ByteFallback(), decoders.Fuse(), *first])
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace, split=False)
    else:
        before = [normalizers.Prepend("▁")] if prefix else []
        tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)


TOKENIZERS: dict[str, Any] = {
    **{name: byte_level(split) for name, split in BYTE_LEVEL.items()},
    "Gemma": sentencepiece(prefix=False),
    "Llama-2, Mistral v1 to v3, Phi-3": sentencepiece(prefix=True),
    "the same, as converted today": sentencepiece(prefix=True, metaspace="first"),
    "the same, before every part": sentencepiece(prefix=True, metaspace="always"),
}


@pytest.fixture(params=TOKENIZERS.values(), ids=TOKENIZERS)
def chat(request: pytest.FixtureRequest) -> ChatFormat:
    return ChatFormat(tokenizer=request.param)


@pytest.mark.parametrize(("judge", "labels"), [("judge", DIGITS), ("judge_binary", WORDS)])
@pytest.mark.parametrize("thinking", [True, False])
def test_a_judge_can_answer_in_every_vocabulary(
    chat: ChatFormat, judge: str, labels: tuple[str, ...], thinking: bool
) -> None:
    """With the templates that ship: each answer begins with a token of its own, and the turn's ids stay what they were."""
    turn, words = chat.question(load_prompts(), judge, labels, thinking=thinking)
    assert [word.strip() for word in words] == list(labels)
    ids = chat.vocabulary.ids(turn)
    for word in words:
        assert chat.vocabulary.ids(turn + word)[: len(ids)] == ids
    found = chat.vocabulary.first_tokens(turn, words)
    assert found is not None
    assert len(set(found)) == len(labels)
    said = chat.judge_turn(load_prompts(), judge, thinking=thinking)
    assert {turn + word for word in words} == {said + label for label in labels}  # nothing else has changed


def test_a_template_that_leaves_no_room_for_an_answer_is_named(tmp_path: Path) -> None:
    for file in load_prompts().folder.glob("*.txt"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "judge_answer.txt").write_text("My score is ve{{score}}")
    chat = ChatFormat(tokenizer=TOKENIZERS["Qwen2 and 3"])
    with pytest.raises(UsageError, match=r"judge_answer\.txt: after this, r, s do not each begin"):
        chat.question(load_prompts(tmp_path), "judge", ("r", "s"), thinking=True)


TEXTS = st.text(alphabet=st.sampled_from("ab 7.\n<>éyes"), max_size=12)


@given(st.sampled_from(list(TOKENIZERS)), st.lists(TEXTS, max_size=5))
def test_the_ids_of_steps_are_those_of_their_text(name: str, steps: list[str]) -> None:
    """Put together, what is sent says what was written: no blank that the tokenizer puts before a text is in it."""
    tokenizer = TOKENIZERS[name]
    vocabulary, contexts = Vocabulary(tokenizer), Contexts()
    contexts.begin("base", vocabulary, "Q: ", ())
    contexts.kept.extend(map(Written, steps))
    opening, whole = vocabulary.ids("Q: "), contexts.prompt("base", vocabulary, len(steps), ("end",))
    ids = [int(token) for token in whole.prefix.encoded.split(b",") if token] + whole.suffix
    assert ids[: len(opening)] == opening
    assert tokenizer.decode(ids) == "Q: " + "".join(steps) + "end"


def test_a_tokenizer_that_changes_texts_is_refused_with_its_name() -> None:
    """One that puts a blank before every word, whatever it is given."""

    class Blanks:
        name_or_path = "org/odd"

        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [32, *map(ord, text)]

        def decode(self, token_ids: list[int]) -> str:
            return "".join(chr(token) for token in token_ids) + "."

    with pytest.raises(UsageError, match="the tokenizer of org/odd changes a text"):
        Vocabulary(Blanks())  # type: ignore[arg-type]
