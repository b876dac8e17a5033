"""Owns the outer form of an answer: lists, brackets, equations, labels, side conditions. Knows no mathematics inside them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sgl_specreason.results.mathematics.spelling import closing

_MARK = re.compile(
    r"\\text\{\s*,?\s*(?:and|or)\s*\}|\\begin\{\w+\*?\}|\\end\{\w+\*?\}|\\[A-Za-z]+|\\.|[()\[\]{},;=<>]", re.DOTALL
)
_OPEN = ("(", "[", "{", "\\{")
_CLOSE = (")", "]", "}", "\\}")
_CASES = re.compile(
    r"(?:\\\{)?\s*\\begin\{(?:cases|aligned|array|gathered)\}(?:\{[^{}]*\})?([^&]*)\\end\{(?:cases|aligned|array|gathered)\}"
)
_RESTATED = re.compile(r"\(\s*(?:\\text\{\s*or\s*\}|or)([^()]*)\)|\\text\{\s*\(or\s*\}([^()]*)\)")
_CONDITION = re.compile(
    r"\\text\{ ?\(?(?:, ?)?(?:for|where|when|whenever|if|provided|given|with|such that|as long as|assuming)(?![A-Za-z])[^{}]*\}"
    r"|\\forall(?![A-Za-z])"
)
_IN = re.compile(r"\(? ?\\?[A-Za-z](?:_\{?\w+\}?)?(?: ?, ?\\?[A-Za-z](?:_\{?\w+\}?)?)* ?\)? ?\\in(?![A-Za-z]) ?")
_MEMBER = re.compile(r"\(?\s*[A-Za-z]\w*\s*\\in\s*(?:\\mathbb\{[A-Z]\}|\\text\{.*|[A-Z])(?:\^[+*])?\s*\)?")
_RELATION = re.compile(r"(?:\\(?:le|ge|ne|in|notin)(?![A-Za-z])|[<>])")
_INEQUALITY = re.compile(r"(?:\\(?:le|ge|ne)(?![A-Za-z])|[<>])")

Shape = Literal["one", "list", "set", "tuple"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The items of an answer and what holds them: nothing, a list without order, a set in braces, a tuple in order."""

    shape: Shape
    items: tuple[str, ...]


def split(text: str, *marks: str) -> list[str]:
    """The pieces between any of `marks` outside all brackets; `\\text{and}` and `\\text{or}` count as `and`, `or`."""
    pieces, depth, start = [], 0, 0
    for mark in _MARK.finditer(text):
        sign = mark[0]
        if sign.startswith("\\text{"):
            sign = sign[6:-1].strip(" ,")
        if sign in _OPEN or sign.startswith("\\begin"):
            depth += 1
        elif sign in _CLOSE or sign.startswith("\\end{"):
            depth -= 1
        elif depth == 0 and sign in marks:
            pieces.append(text[start : mark.start()].strip())
            start = mark.end()
    return [*pieces, text[start:].strip()]


def parts(text: str) -> Parts:
    """What the answer lists: `1,2` and `x=1 \\text{ or } x=2` are lists, `\\{1,2\\}` a set, `(1,2)` a tuple."""
    if system := _CASES.fullmatch(text.strip()):
        return Parts(shape="list", items=tuple(row.strip(" ,") for row in system[1].split("\\\\") if row.strip(" ,")))
    items = tuple(item for item in split(_RESTATED.sub(r", \1\2", text), ",", ";", "and", "or") if item)
    if len(items) > 1:
        return Parts(shape="list", items=items)
    one = items[0] if items else text
    inner = _inside(one)
    if inner is None:
        return Parts(shape="one", items=(one,))
    items = tuple(item for item in split(inner, ",", ";", "and") if item)
    if one[0] == "\\" and not re.search(r"\\in(?![A-Za-z])|\||:", items[0] if items else ""):
        return Parts(shape="set", items=items)
    return Parts(shape="tuple", items=items) if len(items) > 1 and one[0] == "(" else Parts(shape="one", items=(one,))


def _inside(text: str) -> str | None:
    """What one pair of brackets holds that is all of the text."""
    start = 1 if text.startswith("\\{") else 0
    end = closing(text, start) if text[start : start + 1] in ("(", "{", "[") else None
    if end != len(text) - 1:
        return None
    inner = text[start + 1 : end]
    return inner.removesuffix("\\").strip() if start else inner.strip()


def bare(text: str) -> str:
    """Without brackets around all of it, unless they hold a list: `(480)` and `[18]` are `480` and `18`."""
    inner = _inside(text) if text.startswith(("(", "[", "{", "\\{")) else None
    return text if inner is None or not inner or len(split(inner, ",", ";")) > 1 else bare(inner)


def unconditional(text: str) -> tuple[str, bool]:
    """An answer without what it holds for, and whether there was such: `2x \\text{ for } x>0`, `k\\pi, k \\in \\mathbb{Z}`."""
    said = _CONDITION.search(text)
    rest = text[: said.start()].rstrip(" ,;(") if said else text
    bracket = rest.rfind("(")
    if rest.endswith(")") and _RELATION.search(rest, bracket + 1) and closing(rest, bracket) == len(rest) - 1:
        rest = rest[:bracket].rstrip(" ,;")
    rest = rest or text
    items = split(rest, ",", ";")
    last = bare(items[-1])
    if (
        len(items) > 1
        and items[0]
        and (_MEMBER.fullmatch(last) or (_INEQUALITY.search(last) and not _RELATION.search(items[0])))
    ):
        rest = rest[: rest.rindex(items[-1])].rstrip(" ,;(")
    return rest.strip(), rest != text


def members(text: str) -> str:
    """The set that an answer says something is in: `[0,1]` of `x \\in [0,1]`."""
    return _IN.sub("", text, count=1) if _IN.match(text) else text


def sides(text: str) -> list[str]:
    """The sides of an equation, outside all brackets; one where it is none."""
    return split(text, "=") if not _RELATION.search(text) or "=" in text else [text]


# What may stand before "=" as a mere name of the value after it.
_SCRIPTS = r"(?:_(?:\{[^{}]*\}|\\?[A-Za-z0-9]+)|\^\{?(?:-1|\*|\+|-|\\prime|\\circ|\(\d\))\}?|'+)*"
_NO_SYMBOL = r"(?!frac|text|cdot|times|pm|sqrt|left|in\b|le\b|ge\b|ne\b)"
_SYMBOL = rf"(?:\\{_NO_SYMBOL}[A-Za-z]+(?:\{{[^{{}}]*\}})?|\\text\{{[^{{}}]*\}}|[A-Z]{{2,}}|[A-Za-z]){_SCRIPTS}"
_ARGUMENTS = r"(?: ?[(\[][^()\[\]]*(?:\([^()]*\))?[^()\[\]]*[)\]])?"
_NAME = rf"(?:m ?(?=\\angle))?(?:\\angle ?|\\triangle ?|\\vec ?|\||\\\|)*(?:\d[A-Z])?{_SYMBOL}{_ARGUMENTS}(?: ?(?:\||\\\|))*"
_LABEL = re.compile(rf" ?{_NAME}(?: ?(?::|/|\\cup|\\cap|\\circ|\\to) ?{_NAME})* ?")
_FRACTION_LABEL = re.compile(rf" ?\\frac\{{ ?{_NAME} ?\}}\{{ ?{_NAME} ?\}} ?")
_OPERATION = re.compile(
    r" ?\\(?:lim|sum|prod|int|max|min|gcd|lcm|det|sin|cos|tan|cot|sec|csc|log|ln|arg|deg|sup|inf|binom)(?![A-Za-z])"
)
_TUPLE_LABEL = re.compile(rf" ?\( ?{_SYMBOL}(?: ?, ?{_SYMBOL})+ ?\) ?")
_CALLED = re.compile(r" ?([A-Za-z]|\\[A-Za-z]+)[^()]*\( ?([A-Za-z](?: ?, ?[A-Za-z])*) ?\) ?")
_SUM = re.compile(r"[-+<>]")
_EXTREME = re.compile(r"_\{?\\?(?:max|min|text\{[^{}]*\}|total)\}?$")


def is_label(text: str) -> bool:
    """Whether it only names a value: `x`, `AB`, `\\angle C`, `P(X=2)`, `S_1:S_2`, `\\frac{AB}{CD}`, `n_{\\min}`; not `x+y`."""
    if any(pattern.fullmatch(text.strip()) for pattern in (_LABEL, _FRACTION_LABEL, _TUPLE_LABEL)):
        return True
    return bool(_OPERATION.match(text.strip())) and not any(_SUM.search(piece) for piece in _outside(text))


def _outside(text: str) -> Sequence[str]:
    """The text outside all brackets."""
    depth, start, pieces = 0, 0, []
    for mark in _MARK.finditer(text):
        if mark[0] in _OPEN:
            pieces.append(text[start : mark.start()] if depth == 0 else "")
            depth += 1
        elif mark[0] in _CLOSE:
            depth -= 1
            start = mark.end()
    return [*pieces, text[start:]]


def called(label: str) -> list[str] | None:
    """The arguments of a function that a label names: `["x"]` of `f(x)`; `["x"]` of `y` too, the usual name of its value."""
    if label.strip() == "y":
        return ["x"]
    found = _CALLED.fullmatch(label.strip())
    return [name.strip() for name in found[2].split(",")] if found else None


def same_label(ours: str, theirs: str) -> bool:
    """Whether two names may stand for the same: case, spaces and words below a letter (`n_{\\min}`, `n`) aside."""
    plain = [
        re.sub(r"[\s{}|]|\\(?:angle|triangle|vec|overline|text|bar|hat)(?![A-Za-z])", "", label).lower()
        for label in (ours, theirs)
    ]
    return plain[0] == plain[1] or _EXTREME.sub("", ours.strip()) == _EXTREME.sub("", theirs.strip())
