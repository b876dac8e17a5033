"""Owns whether two answers are the same mathematics: the outer form first, then what is inside. For the worker."""

import re
from collections.abc import Callable, Sequence

import sympy
from math_verify import verify

from sgl_specreason.results.mathematics import points, reading, structure, values
from sgl_specreason.results.mathematics.choices import choice
from sgl_specreason.results.mathematics.digits import joined
from sgl_specreason.results.mathematics.quantities import by_base, by_quantity, by_time, quantities
from sgl_specreason.results.mathematics.regions import by_region
from sgl_specreason.results.mathematics.spelling import spelled
from sgl_specreason.results.mathematics.structure import Parts, parts, sides, split
from sgl_specreason.results.mathematics.words import meant, phrase, unsaid, worded

_LETTERED = re.compile(r"\\text\{\s*\(?([A-Z])\)?\s*\}|\(([A-Z])\)")
_LETTERED_TEXT = re.compile(r"\\text\{\s*\(([A-Z])\)\s*\}.+")
_LISTED = re.compile(r",|(?<![a-z])and(?![a-z])")
_SCRIPT = re.compile(r"([_^])\{(\w)\}")
_PLAIN_NUMBER = re.compile(r"[-+\d.,\s/{}]*|[-+]?\\frac\{[\d.]+\}\{[\d.]+\}")
_NUMBERS_APART = re.compile(r"(?<=\d) (?=\d)")
_FEW = 12  # items of a list that may be looked through for repeated ones


def same(answer: str, gold: str) -> bool:
    """Whether two answers, as they stand in their boxes, are the same mathematics."""
    ours, theirs = spelled(answer), spelled(gold)
    readings = [(joined(ours), joined(theirs))]
    if len(parts(theirs).items) > 1:
        readings.append((ours, theirs))  # 100,200,300 may be three numbers
    return any(_same(_prepared(one, letters=_plain(other)), _prepared(other)) for one, other in readings)


def _plain(text: str) -> bool:
    return bool(_PLAIN_NUMBER.fullmatch(text))


def _prepared(text: str, *, letters: bool = False) -> str:
    """Without what announces it and what it is about: `\\text{So } 2\\sqrt2 \\approx 2.83` is `2\\sqrt2`."""
    pieces = [piece for piece in split(meant(worded(unsaid(text), letters=letters)), "\\approx") if piece]
    if len(pieces) > 1 and (_is_name(pieces[0]) or not values.near(pieces[0], pieces[-1])):
        pieces = pieces[-1:]
    return structure.members(pieces[0]) if pieces else ""


def _is_name(text: str) -> bool:
    return structure.is_label(text) and reading.constant(text) is None


def squeezed(text: str) -> str:
    """For equal text: without blanks, and without braces around one letter: `E_{1}` is `E_1`."""
    return _SCRIPT.sub(r"\1\2", "".join(text.split()))


def _same(answer: str, gold: str) -> bool:
    for step in STEPS:
        said = step(answer, gold)
        if said is not None:
            return said
    return False


def _by_text(answer: str, gold: str) -> bool | None:
    """Equal text once blanks are gone; blanks between digits stay: `3 4` is not `34`."""
    apart = [squeezed(_NUMBERS_APART.sub("|", text)) for text in (answer, gold)]
    return True if answer and apart[0] == apart[1] else None


def _by_choice(answer: str, gold: str) -> bool | None:
    """Where the gold answer is a lettered choice: `\\textbf{(B)}\\ 3x` for `\\text{(B)}`."""
    if wanted := _LETTERED.fullmatch(gold):
        return choice(answer) == (wanted[1] or wanted[2])
    named = _LETTERED_TEXT.fullmatch(gold)
    return True if named and choice(answer) == named[1] else None


def _by_words(answer: str, gold: str) -> bool | None:
    """Answers in words, their articles, plurals, case and order in a list aside: `a circle and a line` for `line, circle`."""
    ours, theirs = _phrases(answer), _phrases(gold)
    return None if ours is None or theirs is None else sorted(ours) == sorted(theirs)


def _phrases(text: str) -> list[tuple[str, ...]] | None:
    items = parts(text).items
    if any(phrase(item) is None for item in items):
        return None
    pieces = [piece for item in items for piece in _LISTED.split(item.replace("\\text{", " ").replace("}", " "))]
    found = [phrase(f"\\text{{{piece}}}") for piece in pieces if piece.strip()]
    return [words for words in found if words is not None]


def _by_condition(answer: str, gold: str) -> bool | None:
    """What an answer holds for is left out of it: `2x+1, x>0` is `2x+1`, `k\\pi, k \\in \\mathbb{Z}` is `k\\pi`."""
    (ours, held), (theirs, wanted) = structure.unconditional(answer), structure.unconditional(gold)
    if not held and not wanted:
        return None
    return _same(ours, theirs)


def _by_equation(answer: str, gold: str) -> bool | None:
    """Names of a value may be left out, an equation may not: `5` for `AB=5`, `f(m)=2m` for `f(n)=2n`; not `7` for `a+b=7`."""
    if any(len(split(text, ",", ";", "and", "or")) > 1 for text in (answer, gold)):
        return None
    if "=" in answer and "=" in gold:
        answer, gold = reading.derived(answer), reading.derived(gold)
    ours, theirs = sides(answer), sides(gold)
    if len(ours) == len(theirs) == 1:
        return None
    if len(theirs) == 1:
        return _names(ours) and _same(ours[-1], gold)
    if len(ours) == 1:
        return _names(theirs) and _same(answer, theirs[-1])
    if structure.is_label(ours[0]) and structure.is_label(theirs[0]):
        if structure.same_label(ours[0], theirs[0]):
            return _same(ours[-1], theirs[-1])
        arguments = structure.called(ours[0]), structure.called(theirs[0])
        if arguments[0] and arguments[1] and len(arguments[0]) == len(arguments[1]):
            return values.equal(ours[-1], theirs[-1], dict(zip(arguments[0], arguments[1], strict=True)))
    if len(ours) != 2 or len(theirs) != 2:
        return False
    return points.same_equation(ours, theirs) or points.solved_alike(ours, theirs)


def _names(equation: Sequence[str]) -> bool:
    """Whether the last side is what the others only name or restate: `x=5`, `\\log_2 8=3`."""
    return structure.is_label(equation[0]) or values.equal(equation[0], equation[-1])


def _by_parts(answer: str, gold: str) -> bool | None:
    """Lists and sets in any order, tuples in theirs; labels say which is which."""
    ours, theirs = _listed(answer), _listed(gold)
    if ours.shape == theirs.shape == "one":
        return None
    if (ours.shape == "one" and len(quantities(answer)) > 1) or (theirs.shape == "one" and len(quantities(gold)) > 1):
        return None
    if {ours.shape, theirs.shape} == {"set", "tuple"} and len(ours.items) > 1:
        return False
    if "one" in (ours.shape, theirs.shape):
        return _same_alone(ours, theirs)
    return _same_items(ours, theirs)


def _listed(text: str) -> Parts:
    """What the answer lists, a set of one tuple as that tuple."""
    listed = _expanded(parts(_untupled(text)))
    inner = parts(listed.items[0]) if listed.shape == "set" and len(listed.items) == 1 else listed
    return inner if inner.shape == "tuple" else listed


def _untupled(text: str) -> str:
    """`(x,y)=(2,4)` as `x=2,y=4`."""
    equation = sides(text)
    if len(equation) == 2 and equation[0].startswith("("):
        names, items = parts(equation[0]), parts(equation[1])
        if len(names.items) == len(items.items) > 1:
            return ",".join(f"{name}={item}" for name, item in zip(names.items, items.items, strict=True))
    return text


def _expanded(listed: Parts) -> Parts:
    """`1 \\pm 2` as two."""
    items: list[str] = []
    for item in listed.items:
        around = split(item, "\\pm")
        items += [item] if len(around) != 2 else [f"{around[0]}{sign}{around[1]}".removeprefix("+") for sign in "+-"]
    shape = "list" if listed.shape == "one" and len(items) > 1 else listed.shape
    return Parts(shape=shape, items=tuple(items))


def _same_alone(ours: Parts, theirs: Parts) -> bool:
    """A list or set of one, or of equal ones, for that one."""
    one, other = (ours, theirs) if ours.shape == "one" else (theirs, ours)
    if other.shape == "tuple" or "\\emptyset" in other.items or len(other.items) > _FEW:
        return False
    if len(set(_labels(other))) > 1:
        return False
    pairs = [(one.items[0], item) if one is ours else (item, one.items[0]) for item in other.items]
    return bool(pairs) and all(_same(*pair) for pair in pairs)


def _labels(listed: Parts) -> list[str]:
    return [
        equation[0] if len(equation := sides(item)) > 1 and structure.is_label(equation[0]) else ""
        for item in listed.items
    ]


def _unlabelled(listed: Parts) -> Parts:
    return Parts(shape=listed.shape, items=tuple(sides(item)[-1] for item in listed.items))


def _same_items(ours: Parts, theirs: Parts) -> bool:
    labels = _labels(ours), _labels(theirs)
    named = [all(one) and len(set(one)) == len(one) for one in labels]
    order = "tuple" in (ours.shape, theirs.shape)
    if named[0] != named[1]:
        if named[0]:
            ours = _sorted(ours, labels[0]) if theirs.shape == "tuple" else ours
        else:
            theirs = _sorted(theirs, labels[1]) if ours.shape == "tuple" else theirs
            order = True
    if not (named[0] and named[1]):
        if len({one for one in labels[0] if one} | {one for one in labels[1] if one}) > 1 and named == [False, False]:
            return _matched(ours.items, theirs.items, _same)
        ours, theirs = _unlabelled(ours), _unlabelled(theirs)
    if order:
        return len(ours.items) == len(theirs.items) and all(map(_same, ours.items, theirs.items))
    return _matched(ours.items, theirs.items, _same)


def _sorted(listed: Parts, labels: list[str]) -> Parts:
    return Parts(shape="tuple", items=tuple(item for _, item in sorted(zip(labels, listed.items, strict=True))))


def _matched(ours: Sequence[str], theirs: Sequence[str], same: Callable[[str, str], bool]) -> bool:
    """Whether each has its partner, in any order; repeated ones count once where the lengths differ."""
    if len(ours) != len(theirs):
        if max(len(ours), len(theirs)) > _FEW:
            return False
        ours, theirs = _distinct(ours), _distinct(theirs)
        if len(ours) != len(theirs):
            return False
    left = list(theirs)
    for one in ours:
        found = next((other for other in left if squeezed(one) == squeezed(other)), None) or next(
            (other for other in left if same(one, other)), None
        )
        if found is None:
            return False
        left.remove(found)
    return True


def _distinct(items: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for item in items:
        if not any(_same(item, other) for other in kept):
            kept.append(item)
    return kept


def _by_units(answer: str, gold: str) -> bool | None:
    return by_quantity(answer, gold, _same)


def _by_ratio(answer: str, gold: str) -> bool | None:
    """Ratios of as many terms are the same when one is the other times a factor: `2:4:6`, `1:2:3`."""
    ours, theirs = answer.split(":"), gold.split(":")
    if len(ours) != len(theirs) or len(ours) < 2:
        return None
    if "\\ldots" in answer or not all(term.strip(" 0.") for term in ours + theirs):
        return False
    return all(
        values.equal(f"({one})\\cdot ({theirs[0]})", f"({other})\\cdot ({ours[0]})")
        for one, other in zip(ours, theirs, strict=True)
    )


def _by_value(answer: str, gold: str) -> bool | None:
    """What both are worth; for relations between several letters and sets of other things, math-verify's word."""
    if values.equal(answer, gold) or values.equal(structure.bare(answer), structure.bare(gold)):
        return True
    ours, theirs = reading.value(answer), reading.value(gold)
    if isinstance(ours, sympy.Expr | None) or isinstance(theirs, sympy.Expr | None):
        return False
    return bool(verify(theirs, ours, allow_set_relation_comp=True, timeout_seconds=None))


STEPS: tuple[Callable[[str, str], bool | None], ...] = (
    _by_text, _by_choice, by_time, by_base, _by_words, _by_condition, by_region, _by_equation, _by_parts, _by_units, _by_ratio,
    _by_value,
)  # fmt: skip
