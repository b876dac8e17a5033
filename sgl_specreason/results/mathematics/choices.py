"""Owns which lettered choice an answer names."""

import re

from sgl_specreason.results.mathematics.spelling import spelled
from sgl_specreason.results.mathematics.words import unsaid

LONGEST = 2000  # characters
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_BEFORE = re.compile(
    r" ?(?:(?:the )?(?:(?:final|correct|right|best) )*(?:answer|option|choice)s? ?(?:is|:|=|-)? ?"
    r"|(?:正确|最终)?(?:答案|选项|选择|故选|应选|选) ?(?:应?该?是|为|:)? ?)*",
    re.IGNORECASE,
)
_ONE_LETTER = re.compile(r"\\[a-z]+\s*\{\s*([A-Z])\s*\}")
_LETTER = re.compile(r"[(\[<]*\s*(?P<letter>[A-Za-z])(?P<close>\s*[)\]>]+)?(?P<rest>.*)", re.DOTALL)
_AFTER = re.compile(r"\s*(?:$|[:.),]|-(?![a-z])|is(?: the)?(?: correct| right)?\b|\\(?![a-z]))|\s+[\d$\\.(-]")
_JOINED = r"(?:^\s*|[,;:/&.)(\-]\s*|(?<![a-z])(?:and|or|nor|not|no|then|maybe|possibly|also|both|either)\s+)"
_ANOTHER = re.compile(
    rf"{_JOINED}(?:[(\[]|option |choice )?([A-HJ])(?![A-Za-z0-9'_^])(?! [a-z]{{2,}}(?<! and)(?<! or))|{_JOINED}\(?([a-j])\)"
)


def choice(answer: str) -> str | None:
    """C of `C`, `(C)`, `\\text{C}`, `C: the third`, `The answer is C`; None where there is no letter, or another beside it."""
    if len(answer) > LONGEST:
        return None
    text = _TEXT.sub(r" \1 ", _ONE_LETTER.sub(r"\1", spelled(answer)))
    for brace in ("\\{", "\\}", "{", "}"):
        text = text.replace(brace, " ")
    text = " ".join(text.split())
    text = _unquoted(_BEFORE.sub("", unsaid(_unquoted(text)), count=1))
    found = _LETTER.fullmatch(text)
    if not found or (found["rest"] and not found["close"] and not _AFTER.match(found["rest"])):
        return None
    letter = found["letter"].upper()
    others = {(upper or lower).upper() for upper, lower in _ANOTHER.findall(found["rest"])}
    return letter if others <= {letter} else None


def _unquoted(text: str) -> str:
    text = text.strip(" *_$")
    return text.strip("\"'` ") if text[:1] in ('"', "'", "`") else text
