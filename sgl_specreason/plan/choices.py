"""Owns a multiple-choice problem's choices: from the columns of a row, as sets have them, to lettered lines and the right letter.

Knows no benches' files and no grading.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from sgl_specreason.errors import UsageError
from sgl_specreason.typed import Misfit, typed

LETTERS = "ABCDEFGHIJ"
_LETTER = re.compile(r"\(?\s*([A-Ja-j])\s*[).:]?")
TEXTS, LABELS = ("text", "texts"), ("label", "labels")


class Lettered(NamedTuple):
    """The lines that are shown, the right one's letter, and which of the source's choices stands at each letter."""

    lines: str
    letter: str
    permutation: tuple[int, ...] | None = None


class Listed(NamedTuple):
    """Choices in the source's order, with the labels that it gives them, if any."""

    texts: list[str]
    labels: list[str]


def of_right_and_wrong(question: str, right: str, wrong: Sequence[str]) -> Lettered:
    """The right one among the others, in an order that depends on the question's text and on nothing else."""
    choices = [right, *wrong]
    order = shuffled(question, len(choices))
    return Lettered(_lines([choices[at] for at in order]), LETTERS[order.index(0)], order)


def of_list(found: Listed, answer: Any, *, first: int) -> Lettered:
    """The choices in their own order. `answer` is an index counted from `first`, a letter, a label, a choice's text, or a list of
    zeros with a one. Raises UsageError where it is none of these, or not one choice only."""
    if not 2 <= len(found.texts) <= len(LETTERS):
        raise UsageError(f"wants 2 to {len(LETTERS)} choices, not {len(found.texts)}")
    named = _by_label(found, answer) or _otherwise(found.texts, answer, first)
    places = sorted({place for place in named if 0 <= place < len(found.texts)})
    if len(places) == 1:
        return Lettered(_lines(found.texts), LETTERS[places[0]])
    if places:
        said = " and ".join(f"{LETTERS[place]} ({found.texts[place][:40]})" for place in places)
        raise UsageError(f"answer = {answer!r} may mean {said}: give it as a letter, or as a number that is no text")
    last = LETTERS[len(found.texts) - 1]
    other = f"; choices_from = {1 - first} in the bench's file counts from {1 - first}" if _number(answer) else ""
    raise UsageError(
        f"answer = {str(answer)[:60]!r} names none of {len(found.texts)} choices: wants an index from {first}, a letter A to "
        f"{last}, or a choice's own text or label{other}"
    )


def _by_label(found: Listed, answer: Any) -> list[int]:
    word = str(answer).strip()
    return [place for place, label in enumerate(found.labels) if label == word]


def _otherwise(texts: Sequence[str], answer: Any, first: int) -> list[int]:
    """Every place that an answer may mean, whether there is one or not."""
    if isinstance(answer, list):
        hot = [place for place, value in enumerate(answer) if value == 1]
        return hot if len(answer) == len(texts) and all(value in (0, 1) for value in answer) and len(hot) == 1 else []
    if isinstance(answer, bool):
        return []
    if isinstance(answer, int) or (isinstance(answer, float) and answer.is_integer()):
        return [int(answer) - first]
    word = str(answer).strip()
    places = [place for place, text in enumerate(texts) if text == word]
    if (number := _number(word)) is not None:
        places.append(number - first)
    if letter := _LETTER.fullmatch(word):
        places.append(LETTERS.index(letter[1].upper()))
    return places


def _number(answer: Any) -> int | None:
    word = str(answer).strip()
    return int(word) if not isinstance(answer, bool) and word.isdecimal() and len(word) < 4 else None


def listed(value: Any, name: str) -> Listed:
    """The choices of a column called `name`: a list of texts or of tables with `text` and `label`, a table with lists of both (as
    ARC has them), or a table of texts by label. Raises UsageError."""
    texts: Any = value
    labels: Any = []
    if isinstance(value, dict):
        texts = next((value[key] for key in TEXTS if key in value), None)
        labels = next((value[key] for key in LABELS if key in value), [])
        if texts is None:
            texts, labels = list(value.values()), list(value)
    if isinstance(texts, list) and texts and all(isinstance(item, dict) for item in texts):
        labels = [next((item[key] for key in LABELS if key in item), "") for item in texts]
        texts = [next((item[key] for key in TEXTS if key in item), None) for item in texts]
    try:
        found = [_text(text, f"{name}[{at}]") for at, text in enumerate(typed(texts, list, name))]
    except Misfit as misfit:
        raise UsageError(f"{misfit} (the bench's choices)") from None
    if "" in found:
        raise UsageError(f"{name}[{found.index('')}] is empty (the bench's choices)")
    known = [str(label).strip() for label in labels] if isinstance(labels, list) and len(labels) == len(found) else []
    return Listed(_without_letters(found), known)


def _text(value: Any, name: str) -> str:
    return str(typed(value, str | int | float, name)).strip()  # type: ignore[arg-type]


def _without_letters(texts: list[str]) -> list[str]:
    """Texts that bring their letters along ("A) 21") without them."""
    bare = [
        re.match(rf"\(?{letter}[).:]\s*(?=\S)", text, re.IGNORECASE)
        for letter, text in zip(LETTERS, texts, strict=False)
    ]
    if len(texts) > len(LETTERS) or not all(bare):
        return texts
    return [text[found.end() :] for text, found in zip(texts, bare, strict=True) if found]


def shuffled(question: str, count: int) -> tuple[int, ...]:
    """An order of `count` choices that depends on the question's text and on nothing else."""
    digests = [hashlib.sha256(f"{question}\0{number}".encode()).digest() for number in range(count)]
    return tuple(sorted(range(count), key=digests.__getitem__))


def _lines(texts: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {text.strip()}" for letter, text in zip(LETTERS, texts, strict=False))
