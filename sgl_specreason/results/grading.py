"""Owns whether a model's output answers a problem. Knows nothing of how the output was made.

Nothing in an output is ever run: strings are compared here, mathematics in `math_worker`'s limited process.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sgl_specreason.plan.catalog import Grader
from sgl_specreason.results import math_worker
from sgl_specreason.results.answers import after_hashes, after_thought, final
from sgl_specreason.results.mathematics.choices import choice
from sgl_specreason.results.numerals import decimal, digits, integer

LONGEST_MATH = 2000  # characters; a longer answer is only compared as text


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the output is right, the answer found in it (None: none), and what compared them.

    `grader` is "integer", "letter", "number", "text", "math-verify", "timeout" or "failed" (its worker was ended at its time or
    memory limit).
    """

    correct: bool
    answer: str | None
    grader: str


def grade(text: str, gold: str, grader: Grader, think_start: str = "<think>", think_end: str = "</think>") -> Verdict:
    """Compares the answer in `text`, the whole model output, with the gold answer.

    `grader` is "math" (equal text, else what math-verify reads), "integer" ("025" is 25), "letter" (a choice) or "number"
    (GSM8K: the gold is what follows ####). Several boxes that make one answer are a list for "math"; the others want the same
    in all of them. May be called from any thread.
    """
    found = final(text, think_start, think_end)
    boxes, by = (found.boxes, found.by) if found else ((), "")
    if grader == "number":
        if not any(boxes):
            said = after_hashes(after_thought(text, think_start, think_end) or "")
            boxes = (said,) if said else boxes
        gold = after_hashes(gold) or gold
    if not boxes:
        return Verdict(correct=False, answer=None, grader=grader)
    answer = by.join(boxes)
    match grader:
        case "integer":
            return Verdict(correct=_all_are(map(integer, boxes), integer(gold)), answer=answer, grader="integer")
        case "letter":
            letters = {choice(one) for one in boxes}
            letter = next(iter(letters)) if len(letters) == 1 else None
            return Verdict(
                correct=letter is not None and letter == choice(gold), answer=letter or answer, grader="letter"
            )
        case "number":
            return Verdict(correct=_all_are(map(decimal, boxes), decimal(gold)), answer=answer, grader="number")
    correct, by = _math(answer, gold)
    return Verdict(correct=correct, answer=answer, grader=by)


def _all_are(found: Iterable[object], wanted: object) -> bool:
    return wanted is not None and set(found) == {wanted}


def _math(answer: str, gold: str) -> tuple[bool, str]:
    """Whether they are the same mathematics, and what said so."""
    ours, theirs = digits(answer), digits(gold)
    if ours is not None and theirs is not None:
        return ours == theirs, "integer"
    if answer and answer.strip() == gold.strip():
        return True, "text"
    if max(len(answer), len(gold)) > LONGEST_MATH:
        return "".join(answer.split()) == "".join(gold.split()), "text"
    return math_worker.equal(answer, gold)
