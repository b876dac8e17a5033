"""Owns whether two expressions are worth the same: numbers exactly, others at points. Imports sympy: for the worker."""

from typing import Any

import sympy
from math_verify import verify

from sgl_specreason.results.mathematics.points import same_at_points
from sgl_specreason.results.mathematics.reading import constant, exact, value

_DIGITS = 60
_DIGITS_ENOUGH, _DIGITS_OF_FLOATS = 6, 16
_SIX_PLACES = sympy.Rational(1, 2 * 10**6)
_TINY = sympy.Rational(1, 10**50)
_INTEGERS = frozenset(("k", "n", "m", "l", "j", "t"))  # usual letters for any integer


def equal(answer: str, gold: str, renamed: dict[str, str] | None = None) -> bool:
    """Whether two expressions are worth the same; `renamed` are letters of the answer that stand for the gold answer's."""
    ours, theirs = value(answer), value(gold)
    if ours is None or theirs is None:
        return False
    ours, theirs = _explicit(ours), _explicit(theirs)
    matrices = [isinstance(one, sympy.MatrixBase) for one in (ours, theirs)]
    if any(matrices):
        alike = all(matrices) and ours.shape == theirs.shape
        return alike and all(_equal(one, other, {}) for one, other in zip(ours.flat(), theirs.flat(), strict=True))
    if not isinstance(ours, sympy.Expr) or not isinstance(theirs, sympy.Expr):
        return type(ours) is type(theirs) and bool(verify(theirs, ours, timeout_seconds=None))
    both = "\\pi" in answer and "\\pi" in gold
    return _equal(ours, theirs, renamed or {}, parameters=both)


def _explicit(worth: Any) -> Any:
    """A matrix with its factor multiplied in."""
    if not isinstance(worth, sympy.MatrixExpr):
        return worth
    done = worth.doit()
    return done if isinstance(done, sympy.MatrixBase) else worth


def _equal(ours: Any, theirs: Any, renamed: dict[str, str], *, parameters: bool = False) -> bool:
    decimal = ours.has(sympy.Float) or theirs.has(sympy.Float)
    if ours == theirs and not ours.has(sympy.zoo, sympy.nan):
        return True
    ours, theirs = exact(ours), exact(theirs)
    ours = ours.xreplace(_renaming(ours, theirs, renamed, parameters=parameters))
    if not ours.free_symbols and not theirs.free_symbols:
        return same_number(ours, theirs, decimal=decimal)
    if ours.atoms(sympy.core.function.AppliedUndef) or theirs.atoms(sympy.core.function.AppliedUndef):
        ours, theirs = _with_letters(ours), _with_letters(theirs)
    at_points = same_at_points(ours, theirs)
    return bool(verify(theirs, ours, timeout_seconds=None)) if at_points is None else at_points


def _renaming(ours: Any, theirs: Any, renamed: dict[str, str], *, parameters: bool) -> dict[Any, Any]:
    """The answer's letters that are another's: as told, of other case, or the one integer parameter (`n\\pi` for `k\\pi`)."""
    mine = {symbol.name: symbol for symbol in ours.free_symbols}
    wanted = {symbol.name: symbol for symbol in theirs.free_symbols}
    swap = {mine[name]: sympy.Symbol(by, real=True) for name, by in renamed.items() if name in mine}
    left = [name for name in mine if name not in wanted and mine[name] not in swap]
    free = [name for name in wanted if name not in mine]
    for name in left:
        other_case = [other for other in free if other.lower() == name.lower()]
        if len(other_case) == 1:
            swap[mine[name]] = wanted[other_case[0]]
    if parameters and len(left) == len(free) == 1 and left[0] in _INTEGERS and free[0] in _INTEGERS:
        swap[mine[left[0]]] = wanted[free[0]]
    return swap


def _with_letters(expression: Any) -> Any:
    """A letter for every value of an unknown function."""
    calls = sorted(expression.atoms(sympy.core.function.AppliedUndef), key=str)
    return expression.xreplace({call: sympy.Symbol(f"value of {call}", real=True) for call in calls})


def number(expression: Any) -> Any:
    """A constant to 60 digits, or exactly where it is rational; None where it is no finite number."""
    if expression.is_Rational or expression in (sympy.oo, -sympy.oo):
        return expression
    done = expression.doit()
    if done.is_Rational or done in (sympy.oo, -sympy.oo):
        return done
    worth = done.evalf(_DIGITS)
    return worth if worth.is_number and worth.is_finite else None


def same_number(ours: Any, theirs: Any, *, decimal: bool) -> bool:
    """Exactly, or to 50 digits; a decimal of six digits and places also stands for the number that it rounds or cuts off."""
    ours, theirs = number(ours), number(theirs)
    if ours is None or theirs is None:
        return False
    if ours.is_infinite or theirs.is_infinite or (ours.is_Rational and theirs.is_Rational and ours == theirs):
        return bool(ours == theirs)
    size = max(abs(ours), abs(theirs))
    if not (ours.is_Rational and theirs.is_Rational) and abs(ours - theirs) <= _TINY * size:
        return True
    return decimal and bool(ours.is_real and theirs.is_real) and (_rounds(ours, theirs) or _rounds(theirs, ours))


def _rounds(decimal: Any, other: Any) -> bool:
    """Whether a decimal of six digits or more is `other` to its last digit; of another decimal, to the 16 digits of a float."""
    places = _places(decimal)
    if places is None:
        return False
    digits = len(str(abs(decimal.p) * 10**places // decimal.q))
    if digits < _DIGITS_ENOUGH or (_places(other) is not None and digits < _DIGITS_OF_FLOATS):
        return False
    most = min(sympy.Rational(1, 10**places), _SIX_PLACES) if _places(other) is None else abs(other) / 10**15
    return bool(abs(decimal - other) < most)


def _places(worth: Any) -> int | None:
    """How many digits a number has after the point; None where they do not end."""
    if not worth.is_Rational:
        return None
    rest, powers = worth.q, {2: 0, 5: 0}
    for prime in powers:
        while rest % prime == 0:
            rest, powers[prime] = rest // prime, powers[prime] + 1
    return max(powers.values()) if rest == 1 else None


def near(ours: str, theirs: str) -> bool:
    """Whether one may be the other in round numbers: to 1 %, where both are numbers."""
    first, second = (None if one is None else number(one) for one in (constant(ours), constant(theirs)))
    return first is None or second is None or bool(abs(first - second) * 100 <= abs(first))
