"""Owns one spelling of LaTeX: wrappers, spaces and operators that mean the same. Knows no mathematics.

Every pattern here and in the modules that take part takes time in proportion to the text.
"""

import re
from collections.abc import Callable

from sgl_specreason.results.mathematics.characters import plain_characters, unmarked
from sgl_specreason.results.mathematics.digits import plain_numbers, undollared, unordinal

_SIZES = re.compile(
    r"\\(?:left|right|middle|[bB]ig+[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|tiny|small|normalsize|[lL]arge|LARGE"
    r"|[hH]uge|bf|rm|it|sf|tt|boldmath|phantom\{[^{}]*\})(?![A-Za-z])\.?"
)
_COLOUR = re.compile(r"\\(?:text)?color\s*(?:\[[^\[\]]*\])?\{[^{}]*\}")
_BARE = re.compile(
    r"\\(?:math(?:bf|it|cal|scr|frak|normal)|boldsymbol|bm|pmb|underline|ensuremath)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|sc|md)?|mbox|hbox|emph|mathrm|mathsf|mathtt|operatorname\*?)\s*\{"
)
_TEXT_IN_TEXT = re.compile(r"\\text\{([^{}]*)\\text\{([^{}]*)\}")
_NO_WORD = re.compile(r"\\text\{([^A-Za-z{}]*)\}")
_ONE_LETTER = re.compile(
    r"\\(?:mathrm|operatorname)\s*\{\s*([eidT])\s*\}|\\text\s*\{(e)\}(?=\^)|\\(?:rm|mathrm)\s+([eid])(?![A-Za-z])"
)
_FUNCTION = (
    "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|gcd|lcm|max|min|pi|theta|alpha|beta"
)
_PLAIN_FUNCTION = re.compile(rf"\\text\{{[^{{}}]*\}}|(?<![\\A-Za-z{{])({_FUNCTION})(?![A-Za-z])")
_NAMED_FUNCTION = re.compile(rf"\\operatorname\*?\s*\{{({_FUNCTION})\}}|\\mathrm\s*\{{(?!sec|min|max)({_FUNCTION})\}}")
_PLAIN_INFINITY = re.compile(r"(?<![\\A-Za-z])infinity(?![A-Za-z])", re.IGNORECASE)
_RAISED_MINUS = re.compile(r"\^\s*(-\s*(?:\d+|[A-Za-z]))")
_SUBSCRIPT_TEXT = re.compile(r"_\s*(?:\{\s*\\text\{([^{}]*)\}\s*\}|\\text\{([^{}]*)\})")

_SPACE = re.compile(
    r"(\\\\)|,\\!\s*|\s*\\!\s*|\\[hv]space\*?\{[^{}]*\}|\\(?:q?quad|thinspace|enspace|space)(?![A-Za-z])|\\[ ,;:>]|~|&nbsp;"
)
_LAST_BACKSLASH = re.compile(r"(?<!\\)\\{1,2}$")
_SPACES = re.compile(r"\s+")

_NAMES = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leqslant": "le", "geqslant": "ge", "leq": "le", "geq": "ge", "leqq": "le",
    "geqq": "ge", "neq": "ne", "lt": "<", "gt": ">", "langle": "(", "rangle": ")", "lbrace": "\\{", "rbrace": "\\}",
    "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "colon": ":",
    "varnothing": "emptyset", "bmod": "mod", "ast": "cdot", "textcirc": "circ", "degree": "^\\circ ", "degrees": "^\\circ ",
    "textdegree": "^\\circ ", "land": ",", "wedge": ",", "lor": "\\text{or}", "vee": "\\text{or}", "iff": "=", "simeq": "approx",
    "doteq": "=", "coloneqq": "=", "backslash": "setminus", "smallsetminus": "setminus", "dots": "ldots", "cdots": "ldots",
    "dotsc": "ldots", "prime": "'", "cent": "\\text{ cents}", "euro": "\\text{ euros}", "pounds": "\\text{ pounds sterling}",
    "arcsinh": "operatorname{arcsinh}", "lg": "log", "checkmark": " ", "dbinom": "binom", "tbinom": "binom",
    "overrightarrow": "vec", "Complex": "mathbb{C}", "Reals": "mathbb{R}", "R": "mathbb{R}", "div": "/",
}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SIGNS = (
    (">=", "\\ge "), ("<=", "\\le "), ("!=", "\\ne "), ("\\not=", "\\ne "), ("\\not\\in", "\\notin"), ("&=", "="), ("=>", "="),
    (":=", "="), ("==", "="), ("**", "^"), ("*", "\\cdot "), ("^\\circ^\\circ", "^\\circ"), ("^^", "^"),
)  # fmt: skip
_CHOOSE = re.compile(r"\{ ?([^{}\\]+?)\\choose ?([^{}\\]+)\}")
_BRACED_CALL = re.compile(r"\\(max|min|gcd|lcm) ?\\\{([^{}\\]*)\\\}")
_DEGREE = re.compile(r"\^\s*\{\s*\\circ\s*\}")
_FRAC_TOKENS = re.compile(r"\\frac\s*(\{[^{}]*\}|\w)\s*(\{|\w)")
_ROOT_TOKEN = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\d+(?:\.\d+)?|\\?[A-Za-z]+)")
_CALLS = re.compile(r"\\(sqrt(?:\[[^\[\]]*\])?|exp)\s*[({]|(?<![\\A-Za-z])abs\s*\(")


def _wrappers(text: str) -> str:
    """Sizes, fonts and colours go, words stay in `\\text{}`: `\\mathbf{\\text{B}}` is `\\text{B}`, `\\mathrm{e}^x` is `e^x`."""
    text = _COLOUR.sub("", _SIZES.sub(" ", _NAMED_FUNCTION.sub(lambda name: f"\\{name[1] or name[2]} ", text)))
    text = _ONE_LETTER.sub(lambda one: one[1] or one[2] or one[3], text)
    text = _TEXT.sub(r"\\text{", text)
    for _ in range(4):
        before = text
        text = _TEXT_IN_TEXT.sub(r"\\text{\1\2", _NO_WORD.sub(r"\1", _BARE.sub(r"\1", text)))
        if text == before:
            break
    return _SUBSCRIPT_TEXT.sub(lambda below: f"_{{{(below[1] or below[2]).strip()}}}", text)


def _spaces(text: str) -> str:
    """Every kind of space is one blank, a negative one none: `3\\quad4` is `3 4`, `32,\\! 349` is `32,349`."""
    text = _SPACE.sub(lambda one: one[1] or ("," if one[0][0] == "," else "" if "\\!" in one[0] else " "), text)
    text = _SPACES.sub(" ", text).strip()
    return _LAST_BACKSLASH.sub("", text).strip()


def _commands(text: str) -> str:
    """One name for each operator: `\\geqslant`, `\\geq` and `>=` are `\\ge`, `\\dfrac` is `\\frac`, `\\langle` is `(`."""

    def named(command: re.Match[str]) -> str:
        name = _NAMES.get(command[1], command[1])
        return f"\\{name}" if name[0].isalpha() else name

    text = _COMMAND.sub(named, text)
    for sign, by in _SIGNS:
        text = text.replace(sign, by)
    text = _RAISED_MINUS.sub(r"^{\1}", _DEGREE.sub(r"^\\circ ", text))
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", _BRACED_CALL.sub(r"\\\1(\2)", text))
    return text.replace("\\{\\}", "\\emptyset").replace("\\{ \\}", "\\emptyset")


def _functions(text: str) -> str:
    """Functions in plain text: `sqrt(3)` is `\\sqrt{3}`, `exp(2)` and `\\exp{2}` are `e^{2}`, `pi/4` is `\\pi /4`."""
    text = _PLAIN_FUNCTION.sub(
        lambda name: f"\\{name[1]} " if name[1] else name[0], _PLAIN_INFINITY.sub(r"\\infty ", text)
    )
    done = ""
    while found := _CALLS.search(text):
        end = closing(text, found.end() - 1)
        if end is None:
            break
        before, after = ("|", "|") if not found[1] else ("e^{", "}") if found[1] == "exp" else (f"\\{found[1]}{{", "}")
        done += text[: found.start()] + before
        text = f"{text[found.end() : end]}{after}{text[end + 1 :]}"
    return _ROOT_TOKEN.sub(lambda root: f"\\sqrt{root[1] or ''}{{{root[2]}}}", done + text)


def _fractions(text: str) -> str:
    """Two tokens may follow `\\frac` without braces: `\\frac12`, `\\frac ab`, `\\frac1{2}` are `\\frac{1}{2}` and so on."""

    def braced(tokens: re.Match[str]) -> str:
        upper = tokens[1] if tokens[1][0] == "{" else f"{{{tokens[1]}}}"
        return f"\\frac{upper}" + (tokens[2] if tokens[2] == "{" else f"{{{tokens[2]}}}")

    return _FRAC_TOKENS.sub(braced, text)


def _ending(text: str) -> str:
    """No equals sign before an answer, no full stop after it, no braces around it: `{{25}}.` is `25`."""
    text = text.strip()
    while True:
        before = text
        text = text.rstrip(".,;: ").strip() if not text.endswith(("\\,", "\\;")) else text
        text = text.removeprefix("=").removeprefix("\\approx").removeprefix("\\therefore").strip()
        if text.startswith("{") and closing(text, 0) == len(text) - 1:
            text = text[1:-1].strip()
        if text == before:
            return text


STEPS: tuple[Callable[[str], str], ...] = (
    plain_characters, unmarked, undollared, _wrappers, _spaces, _commands, _functions, _fractions, unordinal, plain_numbers,
    _ending,
)  # fmt: skip


def spelled(text: str) -> str:
    """The same answer in one spelling."""
    for step in STEPS:
        text = step(text)
    return text


_OPEN, _CLOSE = "([{", ")]}"
_MARK = re.compile(r"\\[A-Za-z]+|\\.|[()\[\]{}]", re.DOTALL)


def closing(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` closes; None where it does not."""
    depth = 0
    for mark in _MARK.finditer(text, start):
        if (bracket := mark[0][-1]) in _OPEN and (len(mark[0]) == 1 or bracket == "{"):
            depth += 1
        elif bracket in _CLOSE and (len(mark[0]) == 1 or bracket == "}"):
            depth -= 1
            if depth == 0:
                return mark.end() - 1
    return None
