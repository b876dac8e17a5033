"""Owns words in answers: which letters are words, numbers in words, what is said around an answer and what denies it."""

import re

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBER_WORDS = {word: value for value, word in enumerate(_ONES)} | {
    word: 10 * tens for tens, word in enumerate(_TENS, 2)
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_TEXTS = re.compile(r"\\text\{([^{}]*)\}(?: ?\\text\{([^{}]*)\})+")
_KEPT = re.compile(
    r"\\text\{[^{}]*\}|\\(?:begin|end|operatorname)\s*\{[^{}]*\}(?:\{[^{}]*\})?|\\[A-Za-z]+|[_^]\{[^{}]*\}|[A-Za-z]{3,}(?:-[a-z]{3,})+|[A-Za-z]+(?:'[a-z]+)?"
)
_PROSE = frozenset((
    "and", "or", "for", "is", "the", "are", "at", "not", "no", "if", "per", "all", "day", "way", "one", "two", "six", "ten",
    "men", "job", "sum", "odd", "red", "when", "from", "yes",
))  # fmt: skip
_NOT_PROSE = frozenset(("abcd",))
_UNITS = frozenset((
    "cm", "mm", "km", "dm", "ft", "yd", "mi", "in", "kg", "mg", "lb", "lbs", "oz", "ml", "cc", "gal", "hr", "hrs", "min", "mins",
    "sec", "secs", "mph", "kph", "kmh", "rpm", "usd", "cents", "sq", "cu", "pts", "deg", "rad", "Hz", "kHz", "Pa", "kPa", "eV",
    "mol", "kJ", "kW", "kN",
))  # fmt: skip
_LETTER_UNIT = re.compile(r"(?<=\d) (?:m|s|g|h|L|l|N|J|W|V)(?=\s*(?:$|[,/^]))|(?<=\d)(?:m(?=\^\{?[23]\}?\s*$)|m(?=/s))")
_RATE = re.compile(
    r"(?<=\d) ?(?:km|m|cm|mm|mi|ft|in|g|kg|mg|mol|L|l|J|W|N|V)/(?:hr|h|sec|s|min|mL|L|l|m|cm|kg|mol|K|g|C)(?![A-Za-z])"
)
_OTHER_SCRIPT = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]+")
_NUMBER_IN_TEXT = re.compile(r"(?<![^\s(:$-])-?\d[\d.,:]*(?<![.,:])(?![\w/%^-]|[:.]\d)")
_SAID = re.compile(
    r"^(?:\\text\{)? ?(?:so|thus|hence|therefore|then)?,? ?(?:the )?(?:(?:final|correct|right|best) )*"
    r"(?:answer|option|choice|result|total|solution)s? ?(?:(?:is|are|equals?) ?(?:\}|:|(?=\W|\w))|:|=|-|–) ?\}?[ :]*",
    re.IGNORECASE,
)
_SO = re.compile(
    r"^ ?\\text\{ ?(?:so|thus|hence|therefore|then|that is|i\.e\.|we (?:get|have)) ?,? ?\}"
    r"|^ ?\\text\{[^{}]*\}[^{}]{0,12}\\text\{ ?(?:is|are|equals) ?:? ?\}",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?<![a-z])(?:not|no|never|neither|nor|cannot|except|at (?:least|most)|up to|over|under|above|below|exceeds"
    r"|(?:min|max)imum of|(?:or|and) (?:more|fewer|less|greater|larger|smaller|above|below|under|over|higher|lower|up|down)"
    r"|(?:more|less|fewer|greater|larger|smaller|higher|lower) than)(?![a-z])",
    re.IGNORECASE,
)
_FILLER = frozenset((
    "a", "an", "the", "of", "is", "are", "was", "there", "it", "its", "number", "value", "answer", "that", "this", "exactly",
    "about", "approximately", "so", "be", "some",
))  # fmt: skip
_PHRASES = {
    "no solution": "\\emptyset", "no real solution": "\\emptyset", "no solution exist": "\\emptyset",
    "empty set": "\\emptyset",
    "infinitely many": "\\infty", "infinitely many solution": "\\infty", "infinite": "\\infty", "infinity": "\\infty",
    "all real number": "\\mathbb{R}", "all real": "\\mathbb{R}", "real number": "\\mathbb{R}",
    "doe not exist": "\\text{undefined}", "dne": "\\text{undefined}", "undefined": "\\text{undefined}",
}  # fmt: skip
_ONLY_WORDS = re.compile(r"[A-Za-z][A-Za-z ,.'’()-]*")


def worded(text: str, *, letters: bool = False) -> str:
    """Plain words as `\\text{}`, numbers out of it: `10 weeks` is `10 \\text{weeks}`, `\\text{in 5 m}` `\\text{in} 5 \\text{m}`.

    With `letters`, a single letter after a number and a blank is a unit too: `6 m^2` is `6 \\text{m}^2`.
    """
    if letters:
        text = _LETTER_UNIT.sub(lambda unit: f"\\text{{{unit[0].strip()}}}", _RATE.sub(_rate, text))

    text = _RATE.sub(_rate, _OTHER_SCRIPT.sub(r"\\text{\g<0>}", text))

    def word(found: re.Match[str]) -> str:
        run = found[0]
        if run[0] in "\\_^":
            return run
        after_number = text[: found.start()].rstrip()[-1:].isdigit() or text[: found.start()].endswith(("}", "} "))
        alone = text[found.start() - 1 : found.start()] in ("", " ") and text[found.end() : found.end() + 1] in (
            "",
            " ",
            ",",
            ".",
            ":",
        )
        long = (
            len(run) >= 4
            and run[1:].replace("-", "").islower()
            and re.search("[aeiouy]", run[1:])
            and run not in _NOT_PROSE
        )
        return (
            f"\\text{{{run}}}" if long or (alone and run.lower() in _PROSE) or (after_number and run in _UNITS) else run
        )

    text = _TEXT.sub(lambda one: _without_numbers(one[1]), _KEPT.sub(word, text))
    return _TEXTS.sub(lambda several: f"\\text{{{' '.join(part.strip() for part in _TEXT.findall(several[0]))}}}", text)


def _rate(found: re.Match[str]) -> str:
    return f"\\text{{{found[0]}}}"


def _without_numbers(words: str) -> str:
    """`about 5 m` is `\\text{about} 5 \\text{m}`."""
    done, start = "", 0
    for number in _NUMBER_IN_TEXT.finditer(words):
        before = words[start : number.start()].strip()
        done += (f"\\text{{{before}}} " if before else "") + number[0] + " "
        start = number.end()
    rest = words[start:]
    return done + (f"\\text{{{rest}}}" if rest.strip() else "")


def unsaid(text: str) -> str:
    """What is answered, without the words that only announce it: `The final answer is 5`, `Answer: 12`, `\\text{Total: } 40`."""
    text = _SO.sub("", text, count=1)
    rest = _SAID.sub("", text, count=1)
    if rest != text and rest.count("}") > rest.count("{") and rest.endswith("}"):
        rest = rest[:-1]
    return rest.strip() or text


def bound(text: str) -> bool:
    """Whether words deny a number or make it a bound: `not 5`, `5 or fewer`, `at least 5`."""
    return any(_BOUND.search(words) for words in _TEXT.findall(text))


def number(words: str) -> int | None:
    """What number words say: `twenty-five`, `one hundred and five`; None for any other words."""
    value = part = 0
    names = words.lower().replace("-", " ").split()
    for name in names:
        if name in _NUMBER_WORDS:
            part += _NUMBER_WORDS[name]
        elif name == "hundred":
            part = max(part, 1) * 100
        elif name in _SCALES:
            value, part = value + max(part, 1) * _SCALES[name], 0
        elif name != "and":
            return None
    return value + part if names and names != ["and"] else None


def phrase(text: str) -> tuple[str, ...] | None:
    """The words of an answer that is only words, without articles, plurals and case; None where it is more."""
    plain = _TEXT.sub(r" \1 ", text).strip().rstrip(".")
    if "\\text" not in text or not _ONLY_WORDS.fullmatch(plain):
        return None
    words = [singular(word) for word in re.findall(r"[a-z'’-]+", plain.lower())]
    return tuple(word for word in words if word not in _FILLER) or tuple(words)


def meant(text: str) -> str:
    """The mathematics that words stand for: `no solution` is `\\emptyset`, `infinitely many` is `\\infty`, `twenty` is `20`."""
    words = phrase(text)
    if words is None:
        return text
    if (value := number(" ".join(words))) is not None:
        return str(value)
    if (value := number(words[0])) is not None and all(
        number(word) is None and word not in ("or", "to", "and") for word in words[1:]
    ):
        return f"{value}\\text{{ {' '.join(words[1:])}}}"
    return _PHRASES.get(" ".join(words), text)


def singular(word: str) -> str:
    """`students` is `student`, `inches` is `inch`: good enough to compare words with each other."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word
