"""Owns numbers as they are typed: thousands, powers of ten, mixed numbers, repeating decimals, ordinals, money."""

import re
from fractions import Fraction

_CURRENCIES = {
    "\\$": "dollars", "$": "dollars", "\\text{ euros}": "euros", "\\text{ pounds sterling}": "pounds sterling",
    "\\text{ yen}": "yen",
}  # fmt: skip
_MONEY = re.compile(
    r"([-+] {0,2})?(\\?\$|\\text\{ (?:euros|pounds sterling|yen)\}) {0,2}"
    r"((?:\d|[.,](?=\d)|\\[,!;: ] ?(?=\d)|,\\! ?(?=\d)|\{,\}(?=\d))+)"
)
_BRACED_SIGN = re.compile(r"\{([-+,])\}(?!\d{3})")
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:\{?,\}?\d{3})+|(?: \d{3})+)(?![\d])(?!,\d)")
_BRACED_COMMA = re.compile(r"\{,\}(?=\d{3})")
_POWER = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]([-+]?\d+)(?![\w.])")
_X_TEN = re.compile(r"(?<=\d) ?x ?(?=10\^)")
_NO_ZERO = re.compile(r"(?<![\d.])\.(?=\d)")
_MIXED = re.compile(r"(?<![\d.\w/^_{])(\d+) (\d+)/(\d+)(?![\d/])")
_REPEATED_DOTS = re.compile(r"(?<![\d.])(\d*\.\d*?)(\d)\2\2+(?:\\ldots|\.\.\.)")
_REPEATING = re.compile(
    r"(?<!\d)(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{?(\d+)\}?|\((\d+)\))(?:(\d*)\\dot\s*\{?(\d)\}?)?"
)
_ORDINAL = re.compile(
    r"(?<!\d)(\d{1,9})(?: ?\^? ?\{ ?\\text ?\{ ?(st|nd|rd|th) ?\} ?\}| ?\^? ?\\text ?\{ ?(st|nd|rd|th) ?\}"
    r"| ?\^ ?\{ ?(st|nd|rd|th) ?\}| ?\^? ?(st|nd|rd|th)(?![A-Za-z])| ?\\text\{ ?(st|nd|rd|th)(?![A-Za-z]))"
)


def undollared(text: str) -> str:
    """Dollars around mathematics go, one before a number is money: `$13$` is `13`, `-\\$5` is `-5\\text{ dollars}`."""
    text = text.replace("\\(", " ").replace("\\)", " ").replace("\\[", " ").replace("\\]", " ")
    plain = text.count("$") - text.count("\\$")
    if plain % 2 == 0:
        text = text.replace("\\$", "\0").replace("$", " ").replace("\0", "\\$")
    text = _MONEY.sub(lambda money: f"{money[1] or ''}{money[3]}\\text{{ {_CURRENCIES.get(money[2], money[2])}}}", text)
    return text.replace("\\$", "\\text{ dollars}").replace("$", " ")


def plain_numbers(text: str) -> str:
    """Digits as Python reads them: `1 234` is `1234`, `.5` is `0.5`, `1 1/2` is `1\\frac{1}{2}`, `1.5e3` is `1.5\\cdot10^{3}`."""
    text = _NO_ZERO.sub("0.", _BRACED_SIGN.sub(r"\1", _BRACED_COMMA.sub(",", text)))
    text = _THOUSANDS.sub(lambda one: one[0] if one[2][0] == "," else one[0].replace(" ", ""), text)
    text = _X_TEN.sub("\\\\times ", _POWER.sub(lambda one: f"{one[1]}\\cdot 10^{{{one[2].removeprefix('+')}}}", text))
    return _MIXED.sub(r"\1\\frac{\2}{\3}", _REPEATING.sub(_repeated, _REPEATED_DOTS.sub(r"\1(\2)", text)))


def _repeated(digits: re.Match[str]) -> str:
    """`0.1\\overline{6}`, `0.1\\dot{6}` and `0.1(6)` are `\\frac{1}{6}`."""
    whole, fixed, over = digits[1], digits[2], digits[3] or digits[4]
    if digits[6]:
        over += digits[5] + digits[6]
    if len(whole + fixed + over) > 50:
        return digits[0]
    value = Fraction(int(whole + fixed + over) - int(whole + fixed or "0"), 10 ** len(fixed) * (10 ** len(over) - 1))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def unordinal(text: str) -> str:
    """`12^{th}`, `12^\\text{th}` and `12th grade` without the ending that fits the number: not `2st`."""

    def plain(ordinal: re.Match[str]) -> str:
        number, ending = int(ordinal[1]), next(filter(None, ordinal.groups()[1:]))
        fits = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
        return ordinal[0] if ending != fits else f"{ordinal[1]} \\text{{" if ordinal[6] else f"{ordinal[1]} "

    return _ORDINAL.sub(plain, text)


def joined(text: str) -> str:
    """Digits in groups of three as one number, where no bracket makes them a list: `1,234,567` is `1234567`."""
    if "(" in text or "[" in text or "\\{" in text:
        return text
    return _THOUSANDS.sub(lambda one: one[0].replace(",", ""), text)
