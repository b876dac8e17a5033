"""Owns the characters that an answer may be typed in: full-width ones, signs of mathematics, Greek, marks of Markdown."""

import re
import unicodedata

_CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "•": "\\cdot ",
    "∙": "\\cdot ", "÷": "/", "∕": "/", "⁄": "/", "≤": "\\le ", "≥": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ", "≠": "\\ne ",
    "≈": "\\approx ", "±": "\\pm ", "∓": "\\mp ", "∞": "\\infty ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ",
    "∉": "\\notin ", "∅": "\\emptyset ", "∖": "\\setminus ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "°": "^\\circ ", "º": "^\\circ ", "∠": "\\angle ", "△": "\\triangle ",
    "√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]", "′": "'", "″": "''", "’": "'", "‘": "'", "“": '"', "”": '"', "。": ".",
    "、": ",", "¢": "\\text{ cents}", "€": "\\text{ euros}", "£": "\\text{ pounds sterling}", "¥": "\\text{ yen}",
    "⟨": "\\langle ", "⟩": "\\rangle ", "【": "[", "】": "]", "\u00c5": "\\text{angstrom}", "\u212b": "\\text{angstrom}",
    "\u200b": "", "\ufeff": "", "\u2062": "", "\t": " ", "\n": " ", "\r": " ",
}  # fmt: skip
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "₀₁₂₃₄₅₆₇₈₉₋₊"
_RAISED_RUN, _LOWERED_RUN = re.compile(f"[{_RAISED}]+"), re.compile(f"[{_LOWERED}]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")

_BOLD = re.compile(r"(?:^|(?<=[\s({]))(\*\*|__|\*|_|`)([^*_`]+)\1(?=$|[\s:.,)}])")


def plain_characters(text: str) -> str:
    """ASCII for characters that say the same: `２√３` is `2\\sqrt3`, `x²` is `x^2`, `½` is `\\frac{1}{2}`, `（1，2）` `(1,2)`."""
    if text.isascii():
        return text.translate({9: " ", 10: " ", 13: " "})
    text = _LOWERED_RUN.sub(lambda run: "_" + _script(run[0]), _RAISED_RUN.sub(lambda run: "^" + _script(run[0]), text))
    text = _VULGAR.sub(lambda one: "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", one[0]).split("⁄")), text)
    return unicodedata.normalize("NFKC", "".join(_CHARACTERS.get(character) or _greek(character) for character in text))


def _script(run: str) -> str:
    plain = unicodedata.normalize("NFKC", run).replace("−", "-")
    return plain if len(plain) == 1 else f"{{{plain}}}"


def _greek(character: str) -> str:
    """`π` is `\\pi `: the letter's own name."""
    if not "\u0391" <= character <= "\u03c9":
        return "" if character in _CHARACTERS else character
    kind, _, name = unicodedata.name(character, "").rpartition(" ")
    name = name.lower() if "SMALL" in kind else name.capitalize()
    return f"\\{name} "


def unmarked(text: str) -> str:
    """`**25**`, `__C__`, `*A*`, `"C"` without their marks."""
    text = text.strip()
    if text.startswith("**") and text.endswith("**"):
        text = text.strip("*")
    text = _BOLD.sub(r"\2", _BOLD.sub(r"\2", text))
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text
