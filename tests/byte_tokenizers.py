"""Byte-level tokenizers with the added tokens of a reasoning model, in the kinds that there are."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ADDED = {"<|im_start|>": True, "<|im_end|>": True, "<|im_end|><|im_start|>": True, "<think>": False, "</think>": False}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def bytes_and(*, lowercase: bool = False, normalized: bool = False, spaces: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the added tokens of a reasoning model."""
    words = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("t", "h"), ("i", "n"), ("th", "in"), ("<", "/"), ("<", "|"), ("|", ">"), ("Ċ", "Ċ")]
    for left, right in merges:
        words[left + right] = len(words)
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=merges))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(word, special=special, normalized=normalized) for word, special in ADDED.items()]
    if spaces:
        added += [AddedToken(" " * count, special=False, normalized=False) for count in (2, 4)]
    tokenizer.add_tokens(added)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)


def added(tokenizer: Any, ids: list[int]) -> list[str]:
    """The control tokens among these ids, as text."""
    words = {token: word for word, token in tokenizer.get_added_vocab().items() if not word.isspace()}
    return [words[token] for token in ids if token in words]
