"""Owns whether a model's output answers a problem. Knows nothing of how the output was made.

Nothing in an output is ever run: strings are compared here, mathematics in `math_worker`'s limited process.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from sgl_specreason.plan.catalog import Grader
from sgl_specreason.results import math_worker

LONGEST_MATH = 2000  # characters; a longer answer is only compared as text
# Each pattern takes time in proportion to the text: outputs are megabytes, and made to hurt.
_BOX = "\\boxed"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # or what a backslash escapes
_INTEGER = re.compile(r"-?(?:\d{1,3}(?:(?:,|\{,\})\d{3}){1,333}|\d{1,999})", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)")
_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:[:.)].*)?", re.DOTALL)
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathsf|mbox|rm|bf)\s*\{([^{}]*)\}")
_ONE_SYMBOL = re.compile(r"[A-Za-z](?:_\{?\w+\}?)?(?:\([^()]*\))?")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*([A-Za-z][^{}]*)\}(?:\^\{?(\d)\}?)?\s*$")
_BASE = re.compile(r"[0-9A-Fa-f]+_\{?(\d+)\}?")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:[\d,]*\d|[\d,]*\.\d+)")
_TIGHTENED = (
    (re.compile(r"\\(?:left|right|displaystyle|!|,|;|:|quad)(?![A-Za-z])"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(?:\{(\w)\}|(\w))\s*(?:\{(\w)\}|(\w))"), r"\\frac{\1\2}{\3\4}"),
    (re.compile(r"(?<![\d.\w])(-?\d+)\s+(\d+)/(\d+)$"), r"\1\\frac{\2}{\3}"),
    (re.compile(r"^(-?\d+(?:\.\d+)?)[eE]\+?(-?\d+)$"), r"\1\\cdot10^{\2}"),
    (re.compile(r"\\\$|\$|~"), ""),
    (re.compile(r"^\s*=(?!=)"), ""),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the output is right, the answer found in it (None: none), and what compared them.

    `grader` is "integer", "letter", "number", "text", "rule" (a difference that math-verify does not see), "math-verify",
    "timeout" or "failed" (its worker was ended at its time or memory limit).
    """

    correct: bool
    answer: str | None
    grader: str


def grade(text: str, gold: str, grader: Grader, think_start: str = "<think>", think_end: str = "</think>") -> Verdict:
    """Compares the answer in `text`, the whole model output, with the gold answer.

    `grader` is "math" (equal text, else math-verify on the box alone), "integer" ("025" is 25), "letter" (a choice) or
    "number" (GSM8K: the gold is what follows ####). May be called from any thread.
    """
    answer = extract_box(text, think_start, think_end)
    if grader == "number":
        answer = answer or _after_hashes(_after_thought(text, think_start, think_end) or "")
        gold = _after_hashes(gold) or gold
    if answer is None:
        return Verdict(correct=False, answer=None, grader=grader)
    match grader:
        case "integer":
            return Verdict(correct=_same(_integer(answer), _integer(gold)), answer=answer, grader="integer")
        case "letter":
            letter = _letter(answer)
            return Verdict(correct=_same(letter, _letter(gold)), answer=letter or answer, grader="letter")
        case "number":
            return Verdict(correct=_same(_number(answer), _number(gold)), answer=answer, grader="number")
    correct, by = _math(answer, gold)
    return Verdict(correct=correct, answer=answer, grader=by)


def extract_box(text: str, think_start: str = "<think>", think_end: str = "</think>") -> str | None:
    """The content of the last \\boxed{} after the thought, braces balanced; None if there is none or it does not end."""
    after = _after_thought(text, think_start, think_end)
    start = after.rfind(_BOX) if after is not None else -1
    if after is None or start < 0:
        return None
    rest = after[start + len(_BOX) :].lstrip()
    if not rest.startswith("{"):
        return None
    depth = 0
    for mark in _BRACE.finditer(rest):
        depth += (mark[0] == "{") - (mark[0] == "}")
        if depth == 0 and mark[0] == "}":
            return rest[1 : mark.start()].strip()
    return None


def _after_thought(text: str, think_start: str, think_end: str) -> str | None:
    """What follows the thought; None where it never ends; everything where there is none."""
    if think_end in text:
        return text.rsplit(think_end, 1)[1]
    return None if think_start in text else text


def _same(ours: object, theirs: object) -> bool:
    return ours is not None and ours == theirs


def _integer(text: str) -> int | None:
    text = text.replace("\\!", "").strip().strip("$").strip()
    return int(text.replace("{,}", "").replace(",", "")) if _INTEGER.fullmatch(text) else None


def _letter(text: str) -> str | None:
    """C from "C", "(C)", "\\text{C}", "C: ...", "C) ..."."""
    found = _LETTER.fullmatch(_unwrapped(text).strip().strip("$").strip())
    return found[1].upper() if found else None


def _after_hashes(text: str) -> str | None:
    return text.rsplit("####", 1)[1].strip() if "####" in text else None


def _number(text: str) -> Decimal | None:
    """The only number in the text, whatever its unit; None where there are several or none, or the text is very long."""
    if len(text) > LONGEST_MATH:
        return None
    found = _NUMBER.findall(_unwrapped(text).replace("{,}", ",").replace("\\!", ""))
    return Decimal(found[0].replace(",", "").removesuffix(".") or "0") if len(found) == 1 else None


def _unwrapped(text: str) -> str:
    return _WRAPPED.sub(r"\1", text)


def _math(answer: str, gold: str) -> tuple[bool, str]:
    """Whether they are the same mathematics, and what said so."""
    ours, theirs = _integer(answer), _integer(gold)
    if ours is not None and theirs is not None:
        return ours == theirs, "integer"
    ours_tight, theirs_tight = tightened(answer), tightened(gold)
    if "".join(ours_tight.split()) == "".join(theirs_tight.split()):
        return True, "text"
    if max(len(answer), len(gold)) > LONGEST_MATH:
        return False, "text"
    if _plainly_different(ours_tight, theirs_tight):
        return False, "rule"
    return math_worker.equal(ours_tight, theirs_tight)


def tightened(text: str) -> str:
    """The same mathematics in fewer spellings: sizes, spaces and dollars dropped, fractions and mixed numbers braced."""
    for pattern, by in _TIGHTENED:
        text = pattern.sub(by, text)
    return text.strip().removesuffix(".").strip()


def _plainly_different(answer: str, gold: str) -> bool:
    """Differences that math-verify does not see: another base or unit, no equation, a set for an ordered pair."""
    bases = _BASE.fullmatch(answer), _BASE.fullmatch(gold)
    if bases[0] and bases[1] and bases[0][1] != bases[1][1]:
        return True
    units = _UNIT.search(answer), _UNIT.search(gold)
    if units[0] and units[1] and _PLAIN_NUMBER.fullmatch(answer[: units[0].start()].strip()):
        ours, theirs = ((unit[1].strip().lower(), unit[2]) for unit in units if unit)
        if ours[1] != theirs[1] or ours[0].removesuffix("s") != theirs[0].removesuffix("s"):
            return True
    if "=" in gold and "=" not in answer and not _ONE_SYMBOL.fullmatch(gold.split("=")[0].strip()):
        return True
    return answer.startswith("\\{") != gold.startswith("\\{") and "(" in (answer[0], gold[0])
