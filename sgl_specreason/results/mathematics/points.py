"""Owns comparing expressions and equations at points. Imports sympy: for the worker."""

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

import sympy

from sgl_specreason.results.mathematics.reading import exact, value

_ENOUGH = 4  # points at which both must have a value
_REAL = 16  # points before those of integers
_DIGITS = 50
_SAME, _ZERO = sympy.Rational(1, 10**15), sympy.Rational(1, 10**30)  # of the larger one, which counts as this at least


def points(symbols: list[Any]) -> Iterator[dict[Any, Any]]:
    """Where expressions are compared: below one, below three, of either sign below nine, at last integers; always the same ones.

    At integers a factor may be zero in both, and sympy's value of 0/0 is any: only for what has no value elsewhere, as `(-1)^n`.
    """
    draw = Random("points")
    for kind in range(20):
        most, signs = ((997, (1,)), (2997, (1,)), (2997, (-1, 1)), (8997, (-1, 1)), (29, (1,)))[kind // 4]
        least, parts = (11, 1) if kind >= 16 else (53, 1000)
        yield {symbol: sympy.Rational(draw.choice(signs) * draw.randint(least, most), parts) for symbol in symbols}


def same_at_points(ours: Any, theirs: Any) -> bool | None:
    """Whether they agree wherever both are real (or, with `i` in them, numbers); None where that is at too few points.

    `2\\ln x` is `\\ln x^2`; but `x` is not `|x|`, whatever the points below zero.
    """
    symbols = sorted(ours.free_symbols | theirs.free_symbols, key=str)
    imaginary = ours.has(sympy.I) or theirs.has(sympy.I)
    absolute = ours.has(sympy.Abs) != theirs.has(sympy.Abs)
    agreed = 0
    for number, place in enumerate(points(symbols)):
        if number >= _REAL and agreed >= _ENOUGH:
            break
        worth = [_at(expression, place) for expression in (ours, theirs)]
        real = [one is not None and (imaginary or one.is_real) for one in worth]
        if not all(real):
            if absolute and any(real):
                return False
            continue
        if abs(worth[0] - worth[1]) > max(abs(worth[0]), abs(worth[1]), _ZERO) * _SAME:
            return False
        agreed += 1
    return True if agreed >= _ENOUGH else None


def _at(expression: Any, place: dict[Any, Any]) -> Any:
    """What it is worth there; None where that is no finite number."""
    try:
        worth = expression.evalf(_DIGITS, subs=place)
        if worth.free_symbols or not worth.is_number:
            return None
        worth = worth.evalf(_DIGITS)
        if not worth.is_real and abs(sympy.im(worth)) < abs(worth) * _SAME * _SAME:
            worth = sympy.re(worth)
        return worth if worth.is_finite else None
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):  # sympy's ways to say so
        return None


def _zeros(*equations: list[str]) -> list[Any] | None:
    """What each equation says is zero; None where a side is no expression."""
    worth = [[value(side) for side in equation] for equation in equations]
    if not all(isinstance(side, sympy.Expr) for equation in worth for side in equation):
        return None
    return [exact(left) - exact(right) for left, right in worth]


def same_equation(ours: list[str], theirs: list[str]) -> bool:
    """Whether one equation is the other times a factor that is the same everywhere: `4x^2+9y^2=36`, `x^2/9+y^2/4=1`.

    In an equation for an unknown function the factor may hold the other letters: `LC v''+v=0`, `v''+v/(LC)=0`.
    """
    zero = _zeros(ours, theirs)
    if zero is None or not zero[0].free_symbols or zero[0].free_symbols != zero[1].free_symbols:
        return False
    symbols = sorted(zero[0].free_symbols, key=str)
    fixed = _known(symbols)
    factors = []
    for place in islice(points(symbols), _REAL):
        place = place | {symbol: sympy.Rational(7, 5 + number) for number, symbol in enumerate(fixed)}
        worth = [_at(expression, place) for expression in zero]
        if worth[0] is not None and worth[1]:
            factors.append(worth[0] / worth[1])
    if len(factors) < _ENOUGH or not factors[0]:
        return False
    return all(abs(one - factors[0]) <= abs(factors[0]) * _SAME for one in factors)


def _known(symbols: list[Any]) -> list[Any]:
    """The letters that are no unknown function of a differential equation; none where it is no such equation."""
    derivatives = [symbol.name for symbol in symbols if symbol.name.startswith("D_")]
    plain = {symbol: "".join(filter(str.isalnum, symbol.name)) for symbol in symbols}
    return [symbol for symbol in symbols if derivatives and not any(plain[symbol] in name for name in derivatives)]


def solved_alike(ours: list[str], theirs: list[str]) -> bool:
    """Whether two equations have the same solution for a letter in which both are linear: `xy=6`, `y=6/x`."""
    zero = _zeros(ours, theirs)
    if zero is None:
        return False
    return any(_solved_alike(zero, symbol) for symbol in sorted(zero[0].free_symbols & zero[1].free_symbols, key=str))


def _solved_alike(zero: list[Any], symbol: Any) -> bool:
    symbols = sorted(zero[0].free_symbols | zero[1].free_symbols, key=str)
    agreed = 0
    for place in islice(points(symbols), _REAL):
        roots = [_root(expression, place, symbol) for expression in zero]
        if None in roots:
            continue
        if abs(roots[0] - roots[1]) > max(map(abs, roots)) * _SAME:
            return False
        agreed += 1
    return agreed >= _ENOUGH


def _root(expression: Any, place: dict[Any, Any], symbol: Any) -> Any:
    """Where an expression that is linear in a letter is zero; None where it is not linear."""
    at = [_at(expression, place | {symbol: sympy.Integer(worth)}) for worth in (0, 1, 2)]
    slope = None if None in at else at[1] - at[0]
    return None if not slope or abs(at[2] - at[1] - slope) > abs(slope) * _SAME else -at[0] / slope
