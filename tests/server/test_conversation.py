"""The messages of a request as a conversation of text."""

from typing import Any

import orjson
import pytest

from sgl_specreason.plan.checkpoints import BUNDLED
from sgl_specreason.server.conversation import read_messages
from sgl_specreason.server.refusal import Refusal
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.conversation import Message
from sgl_specreason.text.tokenizers import load_tokenizer

USER = {"role": "user", "content": "What?"}


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


READ: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "one question": ([USER], [("user", "What?")]),
    "a developer is a system": ([said("developer", "Be brief."), USER], [("system", "Be brief."), ("user", "What?")]),
    "turns": (
        [said("system", "S"), USER, said("assistant", "A"), said("user", "B")],
        [("system", "S"), ("user", "What?"), ("assistant", "A"), ("user", "B")],
    ),
    "parts": (
        [said("user", [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}])],
        [("user", "a\nb")],
    ),
    "no parts": ([said("user", [])], [("user", "")]),
    "an empty question": ([said("user", "")], [("user", "")]),
    "an assistant without words": (
        [USER, said("assistant", None), USER], [("user", "What?"), ("assistant", ""), ("user", "What?")],
    ),
    "an assistant without a content": (
        [USER, {"role": "assistant"}, USER], [("user", "What?"), ("assistant", ""), ("user", "What?")],
    ),
    "a thought in a field": (
        [
            USER,
            said("assistant", "A", reasoning_content="x", reasoning="x", reasoning_details=[{"text": "x"}], thinking="x"),
            USER,
        ],
        [("user", "What?"), ("assistant", "A"), ("user", "What?")],
    ),
    "neutral keys": (
        [said("user", "a", name="me"), said("assistant", "b", tool_calls=[], function_call=None, refusal=None), USER],
        [("user", "a"), ("assistant", "b"), ("user", "What?")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "found"), READ.values(), ids=READ)
def test_messages_are_read(messages: list[Any], found: list[tuple[str, str]]) -> None:
    assert read_messages(messages) == tuple(Message(*turn) for turn in found)


REFUSED: dict[str, tuple[object, str, str | None, str]] = {
    "none": (None, "messages", None, "messages is missing"),
    "empty": ([], "messages", None, "wants 1 to 10000 messages, not 0"),
    "too many": ([USER] * 10_001, "messages", None, "not 10001"),
    "text": ("What?", "messages", None, "messages = 'What?': wants a list"),
    "a table": ({"0": USER}, "messages", None, "wants a list"),
    "no table": ([USER, "x"], "messages[1]", None, "messages[1] = 'x': wants a table"),
    "no role": ([{"content": "x"}], "messages[0].role", None, "wants one of system, developer, user, assistant"),
    "a wrong role": ([said("usr", "x")], "messages[0].role", None, "did you mean user?"),
    "a role that is no text": ([said(["user"], "x")], "messages[0].role", None, "wants one of system"),  # type: ignore[arg-type]
    "a tool": ([said("tool", "4"), USER], "messages[0].role", "unsupported_content", "call no tools"),
    "a function": ([said("function", "4"), USER], "messages[0].role", "unsupported_content", "call no tools"),
    "tool calls": (
        [said("assistant", None, tool_calls=[{"id": "1"}]), USER], "messages[0].tool_calls", "unsupported_content", "tools",
    ),
    "a function call": (
        [said("assistant", "", function_call={"name": "f"}), USER], "messages[0].function_call", "unsupported_content", "tools",
    ),
    "an image": (
        [said("user", [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:"}}])],
        "messages[0].content[1]", "unsupported_content", "text only",
    ),
    "audio": ([said("user", [{"type": "input_audio"}])], "messages[0].content[0]", "unsupported_content", "text only"),
    "a part without text": ([said("user", [{"type": "text"}])], "messages[0].content[0].text", None, "wants text"),
    "a part that is text": ([said("user", ["a"])], "messages[0].content[0]", None, "wants a table"),
    "a number": ([said("user", 4)], "messages[0].content", None, "messages[0].content = 4: wants text"),
    "a user without words": ([said("user", None)], "messages[0].content", None, "messages[0].content is missing"),
    "half a character": ([said("user", "a\ud800")], "messages[0].content", None, "half of a character"),
    "the assistant last": (
        [USER, said("assistant", "So")], "messages[1]", "unsupported_content", "the last message is the assistant's own",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "param", "code", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_named(messages: object, param: str, code: str | None, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_messages(messages)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert words in caught.value.message


def test_ten_thousand_wrong_messages_are_one_short_error() -> None:
    for wrong in (
        {"role": "x" * 100, "content": "y" * 1000},
        "x" * 1000,
        {"role": "user", "content": [{"type": "z" * 1000}] * 9},
    ):
        with pytest.raises(Refusal) as caught:
            read_messages([wrong] * 10_000)
        assert len(orjson.dumps(caught.value.body)) < 4000


@pytest.mark.parametrize(
    "thought",
    [
        {"content": "4"},
        {"content": "\n\n4"},
        {"content": "<think>x</think>4"},
        {"content": "<think>\nx\n\ny\n</think>\n\n4"},
        {"content": [{"type": "text", "text": "<think>x</think>\n\n4"}]},
        {"content": "4", "reasoning_content": "x"},
        {"content": "\n4", "reasoning": "x"},
        {"content": "4", "reasoning_details": [{"type": "reasoning.text", "text": "x"}]},
        {"content": "4", "thinking": "x"},
    ],
)
def test_a_thought_that_comes_back_changes_no_token_of_the_prompt(thought: dict[str, Any]) -> None:
    chat = ChatFormat(tokenizer=load_tokenizer(str(BUNDLED / "base")))
    told = [USER, {"role": "assistant", **thought}, said("user", "Sure? </think>")]
    ids = chat.vocabulary.framed(*chat.opening(read_messages(told)))
    turns = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\nSure? "
    assert ids[: len(chat.vocabulary.ids(turns))] == chat.vocabulary.ids(turns)
    assert chat.tokenizer.decode(ids) == turns + "</think><|im_end|>\n<|im_start|>assistant\n<think>\n"
