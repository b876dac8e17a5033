"""Owns what is read out of a server's answer: the text, log-probabilities, the account. Knows no connection."""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from sgl_specreason.engines.account import Request
from sgl_specreason.errors import RequestError
from sgl_specreason.text.context import Prompt
from sgl_specreason.text.steps import Written
from sgl_specreason.text.tokenizers import Tokenizer
from sgl_specreason.text.vocabulary import Vocabulary

HALF = "\ufffd"
"""What stands in a text for bytes that are no whole character."""

IMPOSSIBLE = -1000.0
"""The log-probability of what has none: JSON has no minus infinity, SGLang sends null."""

CONTEXT_FULL = re.compile(
    "model's (?:maximum )?context length|the maximum allowed length|exceeds the KV memory budget|even after retracting all"
)
"""In SGLang's words for a request that fits its model's context or its cache no longer (0.5.23)."""


class Tokens(NamedTuple):
    """Some tokens of a prompt: their ids, and the natural-log probability that the model gave each of them."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def account_of(
    meta: dict[str, Any],
    *,
    engine: str,
    kind: Literal["generate", "select"],
    start_s: float,
    seconds: float,
    retries: int,
) -> Request:
    """The account of a request by its answer's `meta_info`, and by what the client saw of it."""
    return Request(
        engine=engine,
        kind=kind,
        prompt_tokens=meta.get("prompt_tokens", 0),  # a request aborted before its turn has none
        cached_tokens=meta.get("cached_tokens", 0),
        completion_tokens=meta.get("completion_tokens", 0),
        start_s=start_s,
        seconds=seconds,
        engine_seconds=meta.get("e2e_latency", seconds),
        queue_seconds=meta.get("queue_time"),
        retries=retries or None,
        accept_length=meta.get("spec_accept_length"),
    )


def cut_at(text: str, stop: str | list[str]) -> str:
    """`text` up to and with the first stop string: a token may hold more than the stop ("\\n\\n\\n")."""
    ends = [at + len(word) for word in ([stop] if isinstance(stop, str) else stop) if (at := text.find(word)) >= 0]
    return text[: min(ends, default=len(text))]


def heard(text: str, stop: str | list[str]) -> str:
    """What is certain to stay of a text that is still growing: nothing after a stop, and no half character."""
    return cut_at(text, stop).rstrip(HALF)


def logprob_of(entry: Sequence[Any]) -> float:
    """Of a token in SGLang's answer: its log-probability comes first."""
    return IMPOSSIBLE if entry[0] is None else min(max(float(entry[0]), IMPOSSIBLE), 0.0)


def likelihoods(meta: dict[str, Any]) -> dict[str, Any]:
    """What a model says of the tokens that it wrote: their "logprobs", and the "entropy" of the first (bits) where that is there.

    An entropy is made of the likeliest tokens; all others count as one, so that it is a lower bound.
    """
    found: dict[str, Any] = {"logprobs": tuple(map(logprob_of, meta["output_token_logprobs"]))}
    if tops := meta.get("output_top_logprobs"):
        shares = [math.exp(logprob_of(entry)) for entry in tops[0]]
        found["entropy"] = sum(-p * math.log2(p) for p in [*shares, max(1 - sum(shares), 0.0)] if p > 0)
    return found


def written(meta: dict[str, Any], stop: str | list[str], tokenizer: Tokenizer, vocabulary: Vocabulary) -> Written:
    """The text that came, without an end-of-sequence token and what stands after a stop, and its ids where these are known.

    Half of a character, at a limit, is left out: what comes next would not complete it.
    """
    text, ids, finish = meta["text"], tuple(meta["output_ids"] or ()), meta["finish_reason"]
    if isinstance(ended := finish.get("matched"), int):
        text = text.removesuffix(tokenizer.decode([ended]))
        ids = ids[:-1] if ids[-1:] == (ended,) else ()
    elif finish["type"] == "length" and text.endswith(HALF):
        text = text.rstrip(HALF)
        ids = next((ids[:at] for at in range(len(ids), 0, -1) if tokenizer.decode(list(ids[:at])) == text), ())
    cut = cut_at(text, stop)
    return Written(cut, vocabulary.digest, ids if cut == text and HALF not in text else ())


def tokens_of(prompt: Prompt, parts: int, entries: list[Any], role: str) -> Tokens:
    """The tokens of the first `parts` that a prompt has appended to its context, by the answer's last entries."""
    ids = [token for part in prompt.more[:parts] for token in part]
    entries = entries[len(entries) - len(prompt.suffix) :][: len(ids)]
    if [entry[1] for entry in entries] != ids:
        raise RequestError(f"{role}: the log-probabilities are not those of the step")
    return Tokens(ids=tuple(ids), logprobs=tuple(map(logprob_of, entries)))
