"""Owns a conversation before it is a prompt, and where its contents stand in what a chat template made of it.

Knows no template and no tokenizer.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sgl_specreason.errors import UsageError

OURS = frozenset(
    {
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length", "messages",
        "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "strftime_now", "tokenize",
        "tokenizer_kwargs", "tools", "truncation",
    }
)  # fmt: skip
"""What is not for a conversation to tell its template."""
PLAIN = frozenset(" ._-,:;/+()'")
LONGEST_OPTION = 200
_MARK = re.compile(r"what message (\d+) says")


class Message(NamedTuple):
    """One turn: "system", "user" or "assistant", and what it says."""

    role: str
    content: str


class Opening(NamedTuple):
    """What every text of a trajectory begins with, and where in it what others wrote stands, in order.

    Of what stands there nothing is a control token. Blank contents, in which there is none, have no slice.
    """

    prompt: str
    contents: tuple[slice, ...]


def without_thought(content: str, think_start: str, think_end: str) -> str:
    """An assistant's message as it goes into the history: without thoughts before it, whole or cut short, and newlines."""
    start = think_start.strip()
    while start and think_end and content.lstrip().startswith(start):
        content = content.partition(think_end)[2]
    return content.lstrip("\n")


def marks_of(messages: Sequence[Message]) -> list[str]:
    """A text for each message that is in no other's; for a blank one itself, since templates leave out what is empty."""
    return [
        f"what message {number} says" if message.content.strip() else message.content
        for number, message in enumerate(messages)
    ]


def frames_of(rendered: str, marks: Sequence[str]) -> tuple[list[int], list[str]]:
    """Which messages stand in a rendering of their marks, in this order, and the texts before, between and after them.

    Raises UsageError where one stands there never, or twice.
    """
    found = list(_MARK.finditer(rendered))
    times = Counter(int(mark[1]) for mark in found)
    for number, mark in enumerate(marks):
        if mark.strip() and times[number] != 1:
            raise UsageError(f"shows messages[{number}] {times[number]} times, not once")
    borders = [0, *(border for mark in found for border in mark.span()), len(rendered)]
    frames = [rendered[start:end] for start, end in zip(borders[::2], borders[1::2], strict=True)]
    return [int(mark[1]) for mark in found], frames


def places(rendered: str, contents: Sequence[str], frames: Sequence[str]) -> tuple[slice, ...]:
    """Where these contents stand in a rendering: between these frames, raw, stripped, or without leading newlines.

    Raises UsageError where they do not. Frames are never searched for: a message may hold the same words.
    """
    at, found = len(frames[0]), []
    fits = rendered.startswith(frames[0])
    for content, frame in zip(contents, frames[1:], strict=True):
        ends = [at + len(way) for way in _ways(content) if rendered.startswith(way + frame, at)]
        if not fits or not ends:
            raise UsageError("does not put the same words around every message, or changes what one says")
        found.append(slice(at, ends[0]))
        at = ends[0] + len(frame)
    if not fits or at != len(rendered):
        raise UsageError("does not put the same words around every message")
    return tuple(found)


def _ways(content: str) -> tuple[str, str, str]:
    """How templates show a message, the longest first."""
    return content, content.lstrip("\n"), content.strip()


def check_options(options: Mapping[str, object]) -> None:
    """Raises UsageError for template options that are not a conversation's to give, or that could hold a control token."""
    for name, value in options.items():
        if name in OURS:
            raise UsageError(f"{name} is not an option that a conversation can give its chat template")
        if value is None or isinstance(value, bool | int | float):
            continue
        if not isinstance(value, str) or len(value) > LONGEST_OPTION or not all(map(_is_plain, value)):
            raise UsageError(
                f"{name}: wants true, false, a number, or words of letters and digits (at most {LONGEST_OPTION})"
            )


def _is_plain(letter: str) -> bool:
    return letter in PLAIN or letter.isalnum()
