"""Two engines in this process that say whatever a script says, in the vocabulary of a model with control tokens.

In place of HTTP, which would be most of the time of ten thousand trajectories. Requests and answers are JSON, and everything
above one exchange is the real thing. Every request is looked at: its ids must be those of its text, and no control token in
them may come from a problem or from what a model wrote.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from sgl_specreason.engines import endpoint
from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.engines.transport import Asked, Failure, Transport
from sgl_specreason.method.score import DIGITS, WORDS
from sgl_specreason.method.trajectory import Question, Texts
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.conversation import Message
from sgl_specreason.text.steps import Author

CONTROL = ("<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>")
FIRST_CONTROL = 0x10FF00  # the last characters that there are, which nobody writes
OTHER = 0x200000  # what the ids of the other vocabulary are off by
_WORDS = {FIRST_CONTROL + number: word for number, word in enumerate(CONTROL)}
_CONTROL = re.compile("|".join(map(re.escape, CONTROL)) + "|.", re.DOTALL)


class TagTokenizer:
    """A token for each character, and one for each control word; `off` makes it another vocabulary."""

    def __init__(self, off: int = 0) -> None:
        self.off = off

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [self._token(word) for word in _CONTROL.findall(text)]

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, [token - self.off for token in token_ids])).translate(_WORDS)

    def get_vocab(self) -> dict[str, int]:
        return {"a": ord("a") + self.off} | self.get_added_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        return {word: self._token(word) for word in CONTROL}

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        text = "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in conversation)
        return text + "<|assistant|><think>\n" if options.get("add_generation_prompt") else text

    def spelt(self, text: str) -> list[int]:
        """The ids of a text without control tokens: what the scripted models write."""
        return [ord(letter) + self.off for letter in text]

    def controls(self, token_ids: list[int]) -> tuple[str, ...]:
        first = FIRST_CONTROL + self.off
        return tuple(_WORDS[token - self.off] for token in token_ids if token >= first)

    def _token(self, word: str) -> int:
        return self.off + (FIRST_CONTROL + CONTROL.index(word) if word in CONTROL else ord(word))


FRAME = ("<|user|>", "<|end|>", "<|assistant|>", "<think>")
TURN = ("<|end|>", "<|user|>", "<|end|>", "<|assistant|>")
AFTER_FRAME = {(), ("</think>",), TURN, ("</think>", *TURN)}
"""Nothing while it thinks; a closed thought; a judge's turn after a closed thought, whose tag may be spelt as it was written."""

Reply = str | list[float | None] | None
Script = Callable[[str, str, dict[str, Any]], Reply]
"""From an engine's role, the text of a request and the request to what it says; None: the request fails."""


class Scripts:
    """What the engines say, by the cache key of the trajectory, and what has gone wrong in their requests."""

    def __init__(self) -> None:
        self.of: dict[str, Script] = {}
        self.requests = 0
        self.faults: list[str] = []

    def endpoints(self, *, same_vocabulary: bool) -> dict[Author, Endpoint]:
        tokenizers: dict[Author, TagTokenizer] = {
            "base": TagTokenizer(),
            "small": TagTokenizer(0 if same_vocabulary else OTHER),
        }
        found: dict[Author, Endpoint] = {}
        for role, tokenizer in tokenizers.items():
            found[role] = Endpoint("http://scripted", role=role, tokenizer=tokenizer)
            found[role].transport.answer = self.answering(role, tokenizer)  # type: ignore[attr-defined]
        return found

    def answering(self, role: str, tokenizer: TagTokenizer) -> Callable[[dict[str, Any]], bytes | None]:
        def answer(payload: dict[str, Any]) -> bytes | None:
            self.requests += 1
            ids = payload["input_ids"]
            prompt, controls = tokenizer.decode(ids), tokenizer.controls(ids)
            if controls[:4] != FRAME or controls[4:] not in AFTER_FRAME:
                self.faults.append(f"{role}: control tokens {controls} in {prompt[-200:]!r}")
            reply = self.of[payload["extra_key"]](role, prompt, payload)
            return None if reply is None else json.dumps(answered(reply, payload, tokenizer)).encode()

        return answer


def answered(reply: str | list[float | None], payload: dict[str, Any], tokenizer: TagTokenizer) -> dict[str, Any]:
    """`reply` as SGLang would send it: as far as the token limit, a stop or the end of sequence ("\\x03")."""
    params = payload["sampling_params"]
    limit, stops = params["max_new_tokens"], params.get("stop") or []
    meta: dict[str, Any] = {"prompt_tokens": len(payload["input_ids"]), "cached_tokens": 0, "completion_tokens": 0}
    meta["finish_reason"] = {"type": "length", "length": limit}
    start = payload.get("logprob_start_len")
    if start is not None:
        ids = payload["input_ids"][start:]
        meta["input_token_logprobs"] = [[None, ids[0], None], *([likely(token), token, None] for token in ids[1:])]
    if isinstance(reply, list):
        meta["output_token_ids_logprobs"] = [
            [[value, token, None] for value, token in zip(reply, payload["token_ids_logprob"], strict=True)]
        ]
        return {"text": "", "output_ids": [], "meta_info": meta}
    text = reply if "\x03" in reply else reply + "\x03"
    ends = [(at + len(word), word) for word in [*stops, "\x03"] if (at := text.find(word)) >= 0]
    end, word = min(ends)
    if end <= limit:
        text = text[:end]
        meta["finish_reason"] = {"type": "stop", "matched": 3 + tokenizer.off if word == "\x03" else word}
    else:
        text = text[:limit]
    meta["completion_tokens"] = len(text)
    if payload.get("return_logprob"):
        meta["output_token_logprobs"] = [[likely(ord(letter)), ord(letter), None] for letter in text]
        if payload["top_logprobs_num"]:  # a vowel might have been any of two
            meta["output_top_logprobs"] = [[[-0.7 if letter in "aeiou" else 0.0, ord(letter), None]] for letter in text]
    return {"text": text, "output_ids": tokenizer.spelt(text), "meta_info": meta}


def likely(token: int) -> float | None:
    """Everybody finds "#" unlikely and "%" impossible, which JSON says with null."""
    letter = chr(token % OTHER)
    return None if letter == "%" else -12.0 if letter == "#" else -0.5


class ScriptedTransport(Transport):
    """A transport of which one exchange is a function call."""

    answer: Callable[[dict[str, Any]], bytes | None]

    def _exchange(self, asked: Asked) -> dict[str, Any] | Failure:
        if asked.path != "/generate":
            return {"model_path": "scripted"}
        content = self.answer(json.loads(asked.body or b""))
        if content is None:
            return Failure("final", "HTTP 400: out of order")
        try:
            answer: dict[str, Any] = orjson.loads(content)
        except orjson.JSONDecodeError as error:  # half of a character pair is no JSON to a strict reader
            return Failure("final", f"not JSON: {error}")
        return answer


@contextmanager
def scripted() -> Iterator[Scripts]:
    """While it is entered, new endpoints are scripted ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint, "Transport", ScriptedTransport)
        yield Scripts()


def texts(problem: str) -> Texts:
    """What a trajectory of this problem is given."""
    chat = ChatFormat(tokenizer=TagTokenizer())
    prompt, contents = chat.opening([Message("user", problem)])
    roles: tuple[Author, Author] = ("base", "small")
    before, after = "</think><|end|><|user|>Good?<|end|><|assistant|>", "<|end|><|user|>Good?<|end|><|assistant|>"
    return Texts(
        prompts=dict.fromkeys(roles, prompt),
        contents=dict.fromkeys(roles, contents),
        judge_open=f"{before}Score: ",
        judge_closed=f"{after}Score: ",
        binary_open=f"{before}Say: ",
        binary_closed=f"{after}Say: ",
        close="Time is up.</think>\n\n",
        think_end="</think>",
        own={
            "score": Question(f"{before}Score: ", f"{after}Score: ", DIGITS),
            "score+likelihood": Question(f"{before}Score: ", f"{after}Score: ", DIGITS),
            "binary": Question(f"{before}Say: ", f"{after}Say: ", WORDS),
        },
    )
