"""Owns the one number that a short answer states, read exactly. Knows no algebra: what is not plainly one number is none.

Every pattern takes time in proportion to the text.
"""

import re
from fractions import Fraction

from sgl_specreason.results.mathematics.quantities import UNITS
from sgl_specreason.results.mathematics.spelling import spelled
from sgl_specreason.results.mathematics.structure import bare, is_label, sides, split
from sgl_specreason.results.mathematics.words import bound, meant, unsaid, worded

LONGEST = 2000  # characters; a longer answer states nothing, but for an integer alone
_INTEGER = re.compile(r"[-+]?(?:\d{1,3}(?:(?:,|\{,\})\d{3}){1,333}|\d{1,999})", re.ASCII)
_SIGNED = re.compile(r"^([-+])\s+")
_UNIT_POWER = re.compile(r"(?<=[\d\s}])[A-Za-z]{1,3}(?:/[A-Za-z]+)?\s*(?:[\^_]\{?-?\d\}?)+")
_LETTERS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]+(?![A-Za-z{])")
_MARKS = "\"'?~&,;: "  # around a number
_SYMBOLS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{1,3}(?![A-Za-z])")
_DECIMAL = r"[-+]?\s*(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?P<whole>{_DECIMAL})(?:\s*\\(?:cdot|times)\s*10\^\s*\{{?(?P<power>-?\d{{1,3}})\}}?|\^\s*\{{?(?P<raised>\d{{1,2}})\}}?)?"
    r"(?:\s*\\frac\{\s*(?P<upper>\d+)\s*\}\{\s*(?P<lower>\d+)\s*\}|\s*/\s*(?P<over>\d+))?"
)
_FRACTION = re.compile(rf"(?P<sign>-?)\s*\\frac\{{\s*(?P<upper>{_DECIMAL})\s*\}}\{{\s*(?P<lower>{_DECIMAL})\s*\}}")


def digits(text: str) -> int | None:
    """An integer that is written as one: 1234 of `1,234`, 25 of `025`; of any length."""
    plain = text.replace("\\!", "").strip().strip("$").strip()
    return int(plain.replace("{,}", "").replace(",", "")) if _INTEGER.fullmatch(plain) else None


def integer(text: str) -> int | None:
    """The integer that the answer states: 25 of `025.`, `25^\\circ`, `m+n=25`, `\\text{The answer is } 25`, `1\\,025` is 1025.

    None of `24.0`, `25!`, `25\\%`, `3^5` and of two numbers.
    """
    if (written := digits(text)) is not None:
        return written
    stated = _stated(text)
    if stated is None or "%" in stated or "percent" in stated or "!" in stated:
        return None
    stated = _without_words(stated)
    return digits(stated)


def decimal(text: str) -> Fraction | None:
    """The only number that the answer states, whatever its unit: 12.5 of `12\\frac{1}{2}\\%`, 1800 of `\\$1,800`, 12 of `8+4=12`.

    None of `18 or 19`, `1,2`, `at least 18` and of longer texts.
    """
    stated = _stated(text)
    if stated is None:
        return None
    stated = _without_words(stated, note=True)
    found = _FRACTION.fullmatch(stated) or _NUMBER.fullmatch(stated)
    return _worth(found) if found else None


def _stated(text: str) -> str | None:
    """The part that states the number: without what announces it, the side of an equation that is a number alone."""
    if len(text) > LONGEST:
        return None
    plain = worded(unsaid(spelled(text)))
    if bound(plain):
        return None
    meaning = meant(plain)
    if meaning != plain and meaning[0].isdigit():
        return meaning
    equation = sides(plain)
    return bare(plain) if len(equation) == 1 else _solved(plain, equation)


def _solved(plain: str, equation: list[str]) -> str | None:
    """The side of an equation that is the answer: 25 of `m+n=25` and of `25=5^2`; none of `2x=14`, which is not solved."""
    if sum("=" in piece for piece in split(plain, ",", ";", "and", "or")) > 1:
        return None
    worth = {side: _number(side) for side in equation}
    numbers = [side for side in equation if worth[side] is not None]
    if not numbers or len({worth[side] for side in numbers}) > 1:
        return None
    letters = set("".join(_SYMBOLS.findall(" ".join(side for side in equation if side not in numbers))))
    if len(letters) == 1 and not any(is_label(side) for side in equation):
        return None
    return bare(next((side for side in numbers if digits(_without_words(side)) is not None), numbers[-1]))


def _number(side: str) -> Fraction | None:
    found = _NUMBER.fullmatch(_without_words(bare(side)))
    return _worth(found) if found else None


def _without_words(text: str, *, note: bool = False) -> str:
    """The text without units and their powers; with `note`, without single letters and other signs as well."""
    text = _UNIT_POWER.sub(" ", UNITS.sub(" ", text))
    if note:
        text = _LETTERS.sub(" ", text.replace("\\approx", " ")).strip(_MARKS)
    text = " ".join(text.split()).strip(" ,;:.")
    text = _SIGNED.sub(r"\1", bare(text))
    return text if text.startswith("-") else text.removeprefix("+")


def _worth(found: re.Match[str]) -> Fraction | None:
    parts = found.groupdict()
    if "sign" in parts:
        upper, lower = (_plain(parts[name]) for name in ("upper", "lower"))
        return None if not lower else (-1 if parts["sign"] else 1) * upper / lower
    worth = _plain(parts["whole"])
    if parts["power"]:
        worth *= Fraction(10) ** int(parts["power"])
    if parts["raised"]:
        worth **= int(parts["raised"])
    if parts["over"]:
        return worth / int(parts["over"]) if int(parts["over"]) else None
    if parts["upper"]:
        part = Fraction(int(parts["upper"]), int(parts["lower"])) if int(parts["lower"]) else None
        return None if part is None else worth + (-part if parts["whole"].startswith("-") else part)
    return worth


def _plain(digits: str) -> Fraction:
    return Fraction(re.sub(r"[\s,]", "", digits).removesuffix("."))
