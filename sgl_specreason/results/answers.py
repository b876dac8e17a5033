"""Owns where the final answer stands in a model's output: after the thought, in the last box or boxes. Knows not what it means.

Everything here takes time in proportion to the text.
"""

import re
from dataclasses import dataclass

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])(?:\s*\[[^\[\]]{0,20}\]){0,2}\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # or what a backslash escapes
_UNBRACED = re.compile(r"[^\s{}$\\]|\\[A-Za-z]+|\{")
_BETWEEN = re.compile(
    r"(?:[\s$,;&]|\\[()\[\],;: ]|\\\\|\\q?quad(?![A-Za-z])|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
    r"|\\(?:text|mathrm|mbox)\s*\{[\s,;]*(?:and|or|for part \(?\w\)? and)?[\s,;]*\}"
    r"|(?<![A-Za-z\\])[A-Za-z](?:_\{?\w{1,8}\}?)? ?=)*"
)
_ABOUT = re.compile(r"\\approx|\\simeq|≈|numerically|approximately|(?<![a-z])or about", re.IGNORECASE)
_AGAIN = re.compile(r"=|(?<![a-z])(?:that is|i\.e\.|equivalently|in other words)", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?]\s+[A-Z]")
_NEAR = 70  # characters between two boxes of one answer
_MOST = 50  # boxes of one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    start: int
    end: int
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The contents of the boxes that are the answer, none twice, and what they are to each other: ", ", " = " or " \\approx "."""

    boxes: tuple[str, ...]
    by: str


def after_thought(text: str, think_start: str, think_end: str) -> str | None:
    """What follows the thought; None where it never ends; everything where there is none."""
    if think_end in text:
        return text.rsplit(think_end, 1)[1]
    return None if think_start in text else text


def after_hashes(text: str) -> str | None:
    """What follows the last ####, GSM8K's own ending; None where there is none."""
    return text.rsplit("####", 1)[1].strip() if "####" in text else None


def final(text: str, think_start: str = "<think>", think_end: str = "</think>") -> Final | None:
    """The last box after the thought with those that it continues or restates; None where there is none, or it does not end.

    Boxes continue each other where nothing but commas, `and`, `or`, a letter with an equals sign or a new line stands between
    them; one restates the one before it after `≈`, `numerically`, `=` or `that is`.
    """
    after = after_thought(text, think_start, think_end)
    last = None if after is None else _last(after, len(after))
    if after is None or last is None:
        return None
    found, by = [last], ", "
    while len(found) < _MOST and by == ", ":
        before = _last(after, found[0].start)
        if before is None or not before.end <= found[0].start <= before.end + _NEAR:
            break
        between = after[before.end : found[0].start]
        if not _BETWEEN.fullmatch(between):
            by = "" if len(found) > 1 or _SENTENCE.search(between) else _restating(between)
            if not by:
                break
        found.insert(0, before)
    return Final(boxes=tuple(dict.fromkeys(box.content for box in found)), by=by or ", ")


def _restating(between: str) -> str:
    if _ABOUT.search(between):
        return " \\approx "
    return " = " if _AGAIN.search(between) else ""


def _last(text: str, end: int) -> _Box | None:
    """The last box that begins before `end`; None where there is none, or it does not end."""
    start = max(text.rfind(name, 0, end) for name in ("\\boxed", "\\fbox", "\\framebox"))
    command = _BOX.match(text, start) if start >= 0 else None
    if command is None:
        return None
    if text[command.end() : command.end() + 1] != "{":
        return _unbraced(text, start, command.end())
    stop = _closed(text, command.end())
    return None if stop is None else _Box(start=start, end=stop + 1, content=text[command.end() + 1 : stop].strip())


def _closed(text: str, start: int) -> int | None:
    """Where the brace at `start` closes."""
    depth = 0
    for mark in _BRACE.finditer(text, start):
        depth += (mark[0] == "{") - (mark[0] == "}")
        if depth == 0 and mark[0] == "}":
            return mark.start()
    return None


def _unbraced(text: str, start: int, begin: int) -> _Box | None:
    """A box without braces holds what stands together after it: `\\boxed5`, `\\boxed C`, `\\boxed\\frac{1}{2}`."""
    end = begin
    while (token := _UNBRACED.match(text, end)) and end - begin < 200:
        stop = _closed(text, end) if token[0] == "{" else token.end() - 1
        if stop is None:
            return None
        end = stop + 1
    content = text[begin:end].rstrip(".,;:")
    return _Box(start=start, end=end, content=content) if content else None
