"""Owns reading LaTeX as sympy's expressions, with math-verify's reader. Imports sympy: for the worker.

Nothing of a text is evaluated as code; what takes too long ends with the process (`math_worker`).
"""

import re
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy

# As math-verify sets it, but for: no letter at the end is a unit (units are taken off before), case is kept, boxes are gone.
_NORMAL = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_READ = ConversionConfig(lowercase_symbols=False)
_SUBSCRIPT = re.compile(r"(\\(?:int|sum|prod|lim|log|max|min|sup|inf)(?:\\limits)?\s*)?_\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_SUBSCRIPT_COMMAND = re.compile(r"_\s*\\([A-Za-z]+)")
_NOT_A_NAME = re.compile(r"\\text|[^A-Za-z0-9+\-]")
_PRIME = re.compile(r"([A-Za-z](?:_\{\w+\}|_\w)?)('+)")
_E_INDEX = re.compile(r"(?<![A-Za-z\\])E(?=_)")
_PRODUCT = re.compile(r"(?<![\w}^_.])(\d+(?:\.\d+)?)\s*\((?=[^()]*\))")
_CALL_TIMES = re.compile(
    r"\\(sin|cos|tan|cot|sec|csc|ln|log|sinh|cosh|tanh|arcsin|arccos|arctan)(\s*\^\s*(?:\{[^{}]*\}|\w))?"
    r"\s*(\\?[A-Za-z]+(?:_\{?\w\}?)?)\s*(?=\\cdot|\\times)"
)
_SIDE_BY_SIDE = re.compile(r"(?<![_^\w])\d+(?:\.\d+)?\s+[\d.]|\d\s*\\(?:frac|text)\{[^{}]*\}\{[^{}]*\}\s*\d|\d\s*'")
_DOTTED = re.compile(r"\\(d{1,2})ot\s*(?:\{\s*(\\?[A-Za-z]+(?:_\{?\w+\}?)?)\s*\}|([A-Za-z]))")
_DERIVATIVE = re.compile(
    r"\\frac\s*\{\s*\\?(?:d|partial)\s*(?:\^\s*\{?\s*(\d)\s*\}?)?\s*(\\?[A-Za-z]+(?:_\{?\w+\}?)?)\s*(?:\([A-Za-z]\))?\s*\}"
    r"\s*\{\s*\\?(?:d|partial)\s*([A-Za-z])\s*(?:\^\s*\{?\s*\d\s*\}?)?\s*\}"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")


@lru_cache(maxsize=256)
def value(text: str) -> Any:
    """The expression, matrix, relation or set that a text spells, decimals exact; None where it spells none.

    Degrees count where they are an angle's of a trigonometric function; `i` is the imaginary unit and `\\gamma` a letter.
    """
    if not text or _SIDE_BY_SIDE.search(text) or "\\ldots" in text:
        return None
    try:
        found = latex2sympy(
            _readable(text),
            is_real=True,
            convert_degrees=bool(_TRIGONOMETRIC.search(text)),
            normalization_config=_NORMAL,
            conversion_config=_READ,
        )
    except Exception:  # whatever the reader says to what it cannot read
        return None
    return found


def _readable(text: str) -> str:
    """Without what the reader mistakes: derivatives, subscripts, primes, the letter E, `\\sin x \\cdot y`, `2(3)` for `2+3`."""
    text = _CALL_TIMES.sub(r"\\\1\2(\3) ", derived(text))
    text = _SUBSCRIPT_COMMAND.sub(r"_{\1}", text)
    text = _SUBSCRIPT.sub(lambda sub: sub[0] if sub[1] else "_{" + _NOT_A_NAME.sub("", sub[2]) + "}", text)
    text = _PRIME.sub(
        lambda prime: f"{prime[1]}_{{{'prime' * len(prime[2])}}}" if "_" not in prime[1] else prime[0], text
    )
    return _PRODUCT.sub(r"\1\\cdot (", _E_INDEX.sub(r"\\mathcal{E}", text))


def derived(text: str) -> str:
    """Derivatives as letters, and the functions in them without their argument: `\\frac{dx}{dt} = kx(t)` is `D_{1xt} = kx`."""
    text = _DOTTED.sub(lambda dotted: f" D_{{{len(dotted[1])}{_NOT_A_NAME.sub('', dotted[2] or dotted[3])}t}} ", text)
    for found in list(_DERIVATIVE.finditer(text))[:20]:
        name = re.sub(r"[^A-Za-z0-9]", "", found[2])
        text = text.replace(found[0], f" D_{{{found[1] or 1}{name}{found[3]}}} ")
        text = re.sub(rf"(?<=[A-Za-z}}\d])\s*\(\s*{found[3]}\s*\)", " ", text)
    return text


def exact(expression: Any) -> Any:
    """With decimals as fractions, Euler's constant as the letter gamma that it was, `i` as the imaginary unit, and sums done."""
    swap = {number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)}
    swap |= {sympy.EulerGamma: sympy.Symbol("gamma", real=True), sympy.Symbol("i", real=True): sympy.I}
    called = {call.func.__name__: call for call in expression.atoms(sympy.core.function.AppliedUndef)}
    names = {symbol.name for symbol in expression.free_symbols}
    for name, call in called.items():
        if name in names and len(call.args) == 1:  # k(x) beside k: a product
            swap[call] = sympy.Symbol(name, real=True) * call.args[0]
    expression = expression.xreplace(swap)
    return expression.doit() if expression.has(sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit) else expression


def constant(text: str) -> Any:
    """The number that a text spells, as an expression; None for letters and everything else."""
    worth = value(text)
    return exact(worth) if isinstance(worth, sympy.Expr) and not worth.free_symbols else None
