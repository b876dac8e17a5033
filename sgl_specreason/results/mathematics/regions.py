"""Owns sets of real numbers in their spellings: intervals, unions, inequalities, set builders. Imports sympy: for the worker."""

import re
from dataclasses import dataclass
from typing import Any

import sympy

from sgl_specreason.results.mathematics.reading import constant, exact, value
from sgl_specreason.results.mathematics.spelling import closing
from sgl_specreason.results.mathematics.structure import split
from sgl_specreason.results.mathematics.values import same_number

_SIGN = re.compile(r"\\(le|ge|ne)(?![A-Za-z])|([<>=])")
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?")
_MEMBER = re.compile(r"\s*(\\?[A-Za-z](?:_\{?\w+\}?)?)\s*\\in(?![A-Za-z])\s*(.+)", re.DOTALL)
_BUILDER = re.compile(
    r"\\\{\s*(\\?[A-Za-z](?:_\{?\w+\}?)?)\s*(?:\\in\s*(\\mathbb\{R\}|R))?\s*(?:\||:|\\text\{[^{}]*\})\s*(.+?)\\\}",
    re.DOTALL,
)
_MARKED = re.compile(r"\\(?:cup|cap|setminus|le|ge|ne|in|mathbb|infty)(?![A-Za-z])|[<>]")
_INTERVAL = re.compile(r"[(\[\]][^,;]*[,;].*[)\]\[]", re.DOTALL)
_HALF_OPEN = re.compile(r"^(?:\[|\]|\().*(?:\]|\[|\))$", re.DOTALL)
_BETWEEN = re.compile(r"\\(?:cup|cap|setminus)(?![A-Za-z])|(?<=[}\])])\s*-\s*(?=\\\{)")
_FLIPPED = {"<": ">", ">": "<", "le": "ge", "ge": "le", "=": "=", "ne": "ne"}
_LISTS = {
    "N": sympy.S.Naturals,
    "Z": sympy.S.Integers,
    "Q": sympy.S.Rationals,
    "R": sympy.S.Reals,
    "C": sympy.S.Complexes,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A set of real numbers, and the letter for its members where one is named."""

    points: Any
    letter: str | None


def by_region(answer: str, gold: str) -> bool | None:
    """Sets of reals: `x<-1 \\text{ or } x>2` is `(-\\infty,-1)\\cup(2,\\infty)`. None where neither must be one."""
    marked = [_marked(text) for text in (answer, gold)]
    if not any(marked):
        return None
    ours, theirs = region(answer), region(gold)
    if ours is None or theirs is None:
        if marked[0] and not marked[1] and ours is not None:
            return False  # a bound is no number
        return None
    if ours.letter and theirs.letter and ours.letter.lower() != theirs.letter.lower():
        return False
    return _same_points(ours.points, theirs.points)


def _marked(text: str) -> bool:
    """Whether something in a text is written of sets only: a relation, a union, a set builder, a closed end."""
    if _MARKED.search(text) or (text.startswith("\\{") and ("|" in text or ":" in text)):
        return True
    return bool(_INTERVAL.fullmatch(text)) and (text[0] in "[]" or text[-1] in "[]")


def region(text: str) -> Region | None:
    """What a text says about a set of reals; None where it says something else."""
    text = text.strip()
    alternatives = split(text, "or", "\\cup")
    if len(alternatives) > 1:
        return _together([region(one) for one in alternatives], sympy.Union)
    if member := _MEMBER.fullmatch(text):
        inner = region(member[2])
        return Region(points=inner.points, letter=member[1]) if inner else None
    difference = _BETWEEN.search(text)
    if difference and closing(text, 0) != len(text) - 1:
        pieces = [region(text[: difference.start()]), region(text[difference.end() :])]
        how = sympy.Intersection if "cap" in difference[0] else sympy.Complement
        return _together(pieces, how)
    several = split(text, ",", "and", ";")
    if len(several) > 1 and all(_SIGN.search(one) for one in several):
        pieces = [region(one) for one in several]
        both = _together(pieces, sympy.Intersection)
        return both if both is None or both.points is not sympy.S.EmptySet else _together(pieces, sympy.Union)
    return _one(text)


def _together(pieces: list[Region | None], how: Any) -> Region | None:
    found = [piece for piece in pieces if piece is not None]
    letters = {piece.letter for piece in found if piece.letter}
    if len(found) < len(pieces) or len(letters) > 1:
        return None
    return Region(points=how(*(piece.points for piece in found)), letter=next(iter(letters), None))


def _one(text: str) -> Region | None:
    if builder := _BUILDER.fullmatch(text):
        inner = region(builder[3])
        return Region(points=inner.points, letter=None) if inner and inner.letter in (builder[1], None) else None
    if named := re.fullmatch(r"\\mathbb\s*\{?([NZQRC])\}?", text):
        return Region(points=_LISTS[named[1]], letter=None)
    if text == "\\emptyset":
        return Region(points=sympy.S.EmptySet, letter=None)
    if text.startswith("\\{") and closing(text, 1) == len(text) - 1:
        numbers = [_constant(item) for item in split(text[2:-2], ",", ";")]
        return Region(points=sympy.FiniteSet(*numbers), letter=None) if None not in numbers else None
    if _HALF_OPEN.match(text):
        ends = split(text[1:-1], ",", ";")
        low, high = (_constant(end) for end in ends) if len(ends) == 2 else (None, None)
        if low is None or high is None:
            return None
        return Region(points=sympy.Interval(low, high, text[0] in "(]", text[-1] in ")["), letter=None)
    return _inequality(text)


def _constant(text: str) -> Any:
    worth = constant(text.replace("+\\infty", "\\infty"))
    return None if worth is None else worth.doit()


def _inequality(text: str) -> Region | None:
    """`4 < m \\le 8`, `x \\ne 3`, `x = 1`, `-x > -1`: of one letter."""
    signs = [sign[1] or sign[2] for sign in _SIGN.finditer(text)]
    terms = [term.strip() for term in re.split(r"\\(?:le|ge|ne)(?![A-Za-z])|[<>=]", text)]
    if not 1 <= len(signs) <= 2 or (signs == ["="] and not _VARIABLE.fullmatch(terms[0])):
        return None
    worth = [value(term) for term in terms]
    if not all(isinstance(one, sympy.Expr) for one in worth):
        return None
    letters = set().union(*(one.free_symbols for one in worth))
    if len(letters) != 1:
        return None
    letter = next(iter(letters))
    points = sympy.S.Reals
    for sign, left, right in zip(signs, worth, worth[1:], strict=False):
        points &= _half_line(sign, exact(left).doit(), exact(right).doit(), letter)
    return Region(points=points, letter=letter.name)


def _half_line(sign: str, left: Any, right: Any, letter: Any) -> Any:
    if right == letter and left != letter:
        sign, left, right = _FLIPPED[sign], right, left
    if left == letter and not right.free_symbols:
        return {
            "<": sympy.Interval.open(-sympy.oo, right), "le": sympy.Interval(-sympy.oo, right),
            ">": sympy.Interval.open(right, sympy.oo), "ge": sympy.Interval(right, sympy.oo),
            "=": sympy.FiniteSet(right), "ne": sympy.Complement(sympy.S.Reals, sympy.FiniteSet(right)),
        }[sign]  # fmt: skip
    relation = {"<": sympy.Lt, "le": sympy.Le, ">": sympy.Gt, "ge": sympy.Ge, "=": sympy.Eq, "ne": sympy.Ne}[sign]
    return relation(left, right).as_set()


def _same_points(ours: Any, theirs: Any) -> bool:
    """The same intervals and numbers, their ends compared as numbers."""
    if ours == theirs:
        return True
    pieces = [_pieces(one) for one in (ours, theirs)]
    if pieces[0] is None or pieces[1] is None or len(pieces[0]) != len(pieces[1]):
        return False
    return all(
        one[2:] == other[2:]
        and same_number(one[0], other[0], decimal=False)
        and same_number(one[1], other[1], decimal=False)
        for one, other in zip(pieces[0], pieces[1], strict=True)
    )


def _pieces(points: Any) -> list[tuple[Any, Any, bool, bool]] | None:
    found = []
    for piece in points.args if isinstance(points, sympy.Union) else (points,):
        if isinstance(piece, sympy.Interval):
            found.append((piece.start, piece.end, bool(piece.left_open), bool(piece.right_open)))
        elif isinstance(piece, sympy.FiniteSet):
            found += [(one, one, False, False) for one in piece]
        else:
            return None
    return sorted(found, key=lambda piece: (float(piece[0]), float(piece[1])))
