"""Owns numbers with units: their spellings, several that make one quantity, money, percent, times of day, number bases."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from sgl_specreason.results.mathematics.structure import Parts, parts
from sgl_specreason.results.mathematics.words import bound, singular

Same = Callable[[str, str], bool]  # whether two values without units are equal
Unit = tuple[tuple[str, int], ...]  # names and their powers, in order

# name: dimension, size; names that are not here are compared as words
_SIZES: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(size))
    for dimension, sizes in {
        "length": {
            "mm": "1/1000", "cm": "1/100", "dm": "1/10", "m": "1", "km": "1000",
            "in": "0.0254", "ft": "0.3048", "yd": "0.9144", "mi": "1609.344",
        },
        "mass": {"mg": "1/1000", "g": "1", "kg": "1000", "t": "1000000"},
        "weight": {"oz": "1", "lb": "16"},
        "time": {"s": "1", "min": "60", "h": "3600", "day": "86400", "week": "604800"},
        "age": {"month": "1", "year": "12"},
        "volume": {"ml": "1/1000", "l": "1"},
        "money": {"cent": "1", "dollar": "100"},
        "angle": {"degree": "3600", "arcminute": "60", "arcsecond": "1"},
    }.items()
    for name, size in sizes.items()
}  # fmt: skip
_SPELT = {
    "inch": "in", "foot": "ft", "feet": "ft", "yard": "yd", "mile": "mi", "meter": "m", "metre": "m", "millimeter": "mm",
    "millimetre": "mm", "centimeter": "cm", "centimetre": "cm", "kilometer": "km", "kilometre": "km", "gram": "g",
    "milligram": "mg", "kilogram": "kg", "kilo": "kg", "tonne": "t", "pound": "lb", "ounce": "oz", "second": "s", "sec": "s",
    "minute": "min", "hour": "h", "hr": "h", "d": "day", "wk": "week", "mo": "month", "yr": "year", "liter": "l", "litre": "l",
    "milliliter": "ml", "millilitre": "ml", "gal": "gallon", "usd": "dollar", "buck": "dollar", "deg": "degree", "celsius": "c",
    "fahrenheit": "f", "percentage": "%", "percent": "%", "pct": "%", "newton": "n", "joule": "j", "kilojoule": "kj", "watt": "w",
    "volt": "v", "kelvin": "k", "mole": "mol", "ampere": "a", "pascal": "pa", "millisecond": "ms", "pt": "point",
    "people": "person", "men": "man", "women": "woman", "children": "child", "remainder": "r",
}  # fmt: skip
_PER_HOUR = {
    name: ((unit, 1), ("h", -1)) for name, unit in (("mph", "mi"), ("kph", "km"), ("kmh", "km"), ("kmph", "km"))
}
_IGNORED = frozenset(
    (
        "unit",
        "a",
        "an",
        "the",
        "of",
        "and",
        "about",
        "approximately",
        "around",
        "total",
        "roughly",
        "exactly",
        "only",
        "each",
    )
)
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}

_WORDS = r"\\text\{[^{}]*\}(?:_\{?\w\}?)?(?:\^\{?-?\d\}?)?"
UNITS = re.compile(
    rf"(\\frac\{{\s*(?:{_WORDS}\s*)+\}}\{{\s*(?:{_WORDS}\s*)+\}}|(?:{_WORDS})(?:\s*(?:/|\\cdot|\\times)?\s*{_WORDS})*"
    r"|\^\s*\\circ\s*(?:\\text\{\s*[CF]\s*\}|[CF](?![A-Za-z]))?|\\?%|(?<=\d)\s*'{1,2})"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_FACTOR = re.compile(r"([/(]|per(?![a-z]))|([a-zA-Z$%.]+)\s*(?:_\{?\w\}?)?\s*(?:\^?\s*\{?(-?\d)\}?)?")
_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\s*(?:([ap])\.?\s*m\.?)?", re.IGNORECASE)
_BASE = re.compile(
    r"\(?(?:\\text\{)?(\d[0-9A-Fa-f]*(?:\.\d+)?|[A-Fa-f][0-9A-Fa-f]+)\}?\)?"
    r" ?_ ?\{?\(?(?:\\text\{)? ?(?:base ?\}? ?)?(\w+) ?\}?\)?\}?"
)
_BASE_SAID = re.compile(
    r"([0-9][0-9A-Za-z]*) ?,? ?(?:\\text\{)? ?\(?(?:in )?base[- ]?\}? ?(\w+) ?(?:\\text\{ ?)?\)? ?\}?"
)
_NAMED_BASES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_BASES = {name: str(base) for base, name in enumerate(_NAMED_BASES, 2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A value as text, and its unit; an empty unit is none."""

    value: str
    unit: Unit


def quantities(text: str) -> list[Quantity]:
    """The numbers of an answer, each with its unit: two of `2 \\text{h} 30 \\text{min}`, one of `\\text{USD } 5` and of `5`."""
    if _TRIGONOMETRIC.search(text) or ("'" in text and "\\circ" not in text):
        return [Quantity(value=text, unit=())]
    pieces = UNITS.split(text)
    found: list[Quantity] = []
    before: Unit = ()
    for piece, run in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        value, after = piece.strip(" ,~").removeprefix("=").strip(), unit(run)
        if not value.strip("(){}"):
            before = before or after
        else:
            named = before if all(name in _SIZES for name, _ in before) else ()
            found.append(Quantity(value=value, unit=after or named))
            before = ()
    return found or [Quantity(value=text, unit=())]


def unit(text: str) -> Unit:
    """One spelling of a unit: `(("m", 1), ("s", -2))` of `\\text{m/s}^2` and of `meters per second squared`."""
    if "'" in text:
        return (("arcsecond" if "''" in text else "arcminute", 1),)
    text = text.replace("\\frac", "").replace("}{", "}/{").replace("\\text", " ").replace("^\\circ", "degree ")
    text = text.replace("{", "").replace("}", "").replace("\\cdot", " ").replace("\\times", " ").replace("\\", "")
    powers: dict[str, int] = {}
    sign, next_power, last = 1, 1, ""
    for slash, name, power in _FACTOR.findall(text):
        name = name.strip(".").lower()
        if slash:
            sign = -1 if slash != "(" else sign
            continue
        if name in ("squared", "cubed") and last:
            powers[last] *= _POWERS[name]
            continue
        if name in _POWERS:
            next_power = _POWERS[name]
            continue
        name = _SPELT.get(singular(name), _SPELT.get(name, singular(name)))
        for one, its in _PER_HOUR.get(name, ((name, 1),)):
            if one and one not in _IGNORED:
                powers[one] = powers.get(one, 0) + sign * its * int(power or 1) * next_power
        last, next_power = (name if name in powers else ""), 1
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _size(of: Unit) -> tuple[dict[str, int], Fraction] | None:
    """The dimensions of a unit and how large it is; None where a name in it is not known."""
    dimensions: dict[str, int] = {}
    size = Fraction(1)
    for name, power in of:
        if name not in _SIZES:
            return None
        dimension, factor = _SIZES[name]
        dimensions[dimension] = dimensions.get(dimension, 0) + power
        size *= factor**power
    return {dimension: power for dimension, power in dimensions.items() if power}, size


def by_quantity(answer: str, gold: str, same: Same) -> bool | None:
    """Numbers with units: as many, each the same; of one number the unit may be left out. None where neither has a unit."""
    ours, theirs = quantities(answer), quantities(gold)
    if not (UNITS.search(answer) or UNITS.search(gold)) or (ours[0].value == answer and theirs[0].value == gold):
        return None
    if bound(answer) != bound(gold):
        return False
    if len(ours) == len(theirs) == 1:
        return _same_quantity(ours[0], theirs[0], same)
    totals = _total(ours), _total(theirs)
    if totals[0] and totals[1]:
        return totals[0][0] == totals[1][0] and same(totals[0][1], totals[1][1])
    if len(ours) != len(theirs):
        listed = parts(gold)
        return listed.shape == "list" and len(ours) == len(listed.items) and _listed(ours, listed, same)
    return all(one.unit == other.unit and same(one.value, other.value) for one, other in zip(ours, theirs, strict=True))


def _listed(ours: list[Quantity], listed: Parts, same: Same) -> bool:
    """`7 \\text{ toys and } 4 \\text{ planes}` for `7,4`."""
    return all(same(one.value, item) for one, item in zip(ours, listed.items, strict=True))


def _same_quantity(ours: Quantity, theirs: Quantity, same: Same) -> bool:
    percent = (("%", 1),)
    if (
        ours.unit == theirs.unit
        or (not ours.unit and theirs.unit != percent)
        or (not theirs.unit and ours.unit != percent)
    ):
        return same(ours.value, theirs.value)
    if percent in (ours.unit, theirs.unit):
        of_hundred = f"\\frac{{{ours.value}}}{{100}}", f"\\frac{{{theirs.value}}}{{100}}"
        if not ours.unit:
            return same(ours.value, theirs.value) or same(ours.value, of_hundred[1])
        return not theirs.unit and (same(ours.value, theirs.value) or same(of_hundred[0], theirs.value))
    sizes = _size(ours.unit), _size(theirs.unit)
    if sizes[0] and sizes[1]:
        return sizes[0][0] == sizes[1][0] and same(_times(ours.value, sizes[0][1]), _times(theirs.value, sizes[1][1]))
    names = {name for name, _ in ours.unit}, {name for name, _ in theirs.unit}
    words = not any(name in _SIZES for name in names[0] | names[1])
    return words and (names[0] <= names[1] or names[1] <= names[0]) and same(ours.value, theirs.value)


def _times(value: str, size: Fraction) -> str:
    return value if size == 1 else f"\\frac{{{size.numerator}}}{{{size.denominator}}}\\cdot ({value})"


def _total(several: list[Quantity]) -> tuple[dict[str, int], str] | None:
    """All of them as one number, where they measure the same: 7200+1800 s of `2 \\text{ h } 30 \\text{ min}`."""
    sizes = [_size(one.unit) for one in several if one.unit]
    known = [size for size in sizes if size]
    if len(known) < len(several) or len({one.unit for one in several}) < len(several):
        return None
    if any(size[0] != known[0][0] for size in known):
        return None
    return known[0][0], "+".join(_times(f"({one.value})", size[1]) for one, size in zip(several, known, strict=True))


def by_time(answer: str, gold: str) -> bool | None:
    """Times of day: `4:30 \\text{ PM}` is `\\text{4:30 p.m.}` and `16:30`, `20:34` is `20:34:00`. None for ratios."""
    ours, theirs = (_TIME.fullmatch(text.replace("\\text{", " ").replace("}", " ").strip()) for text in (answer, gold))
    if not ours or not theirs or not (ours[2] or ours[4]) or not (theirs[2] or theirs[4]):
        return None
    if not any((ours[3], theirs[3], ours[4], theirs[4])):
        return None
    halves = {one[4].lower() for one in (ours, theirs) if one[4]}
    clock = 24 if len(halves) == 2 or int(ours[1]) > 12 or int(theirs[1]) > 12 else 12
    seconds = [
        _seconds(one, next(iter(halves)) if len(halves) == 1 and clock == 24 and int(one[1]) <= 12 else "")
        for one in (ours, theirs)
    ]
    return seconds[0] == seconds[1] if clock == 24 else (seconds[0] - seconds[1]) % 43200 == 0


def _seconds(time: re.Match[str], half: str) -> int:
    hour = int(time[1])
    half = (time[4] or half).lower()
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return 3600 * hour + 60 * int(time[2] or 0) + int(time[3] or 0)


def by_base(answer: str, gold: str) -> bool | None:
    """Digits in a base: the same digits, and the same base where both state one. None where neither does."""
    stated = [_BASE.fullmatch(text) or _BASE_SAID.fullmatch(text) for text in (answer, gold)]
    if not stated[0] and not stated[1]:
        return None
    digits = [
        one[1].lower() if one else text.strip("() ").lower() for one, text in zip(stated, (answer, gold), strict=True)
    ]
    bases = {_BASES.get(one[2], one[2]) for one in stated if one}
    return digits[0].lstrip("0") == digits[1].lstrip("0") and len(bases) == 1
