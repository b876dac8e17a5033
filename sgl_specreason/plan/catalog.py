"""Owns the declarative files of `eval/`: benches, pairs, presets and sweeps, read and checked.

Knows nothing of engines, rows or command lines.
"""

import itertools
import math
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta, Struct

from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import Method, Policy, Settings
from sgl_specreason.method.score import JUDGES, RANGES
from sgl_specreason.paths import find
from sgl_specreason.plan.checkpoints import BUNDLED
from sgl_specreason.plan.shapes import Quantization, Shape
from sgl_specreason.text.steps import Author
from sgl_specreason.typed import Number, Positive, nearest, typed

Kind = Literal["benches", "pairs", "presets", "sweeps"]
Grader = Literal["math", "integer", "letter", "number"]
Template = Literal["chatml", "chatml-think", "qwen3", "r1"]
Field = Literal["id", "problem", "answer", "wrong", "choices"]
Sampling = Literal["temperature", "top_p", "top_k", "min_p"]
Columns = Annotated[list[str], Meta(min_length=1, max_length=10)]
SINGULAR: dict[Kind, str] = {"benches": "bench", "pairs": "pair", "presets": "preset", "sweeps": "sweep"}
BUNDLE = "bundled:"
OUR_ARGUMENTS = ("--model-path", "--model", "--port", "--api-key")
MOST_POINTS = 1000
MOST_WRONG = 9
NAME_BYTES = 64
_NAME = re.compile(r"[^\W_][\w.+-]*")  # it becomes a part of folders' names


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a file. Types and ranges are checked where `typed` makes one of it, the rest whenever one is made."""


class Source(_Table, frozen=True, kw_only=True):
    """Where rows come from: a generator of this package, or a set on the Hugging Face hub.

    `configs` are the set's configurations, whose rows follow each other; none means its only one. `gated` says that the
    hub gives the set only to people who have accepted its terms.
    """

    generator: str | None = None
    hub: str | None = None
    configs: list[str] = []
    split: str = "test"
    revision: str | None = None
    rows: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    gated: bool = False


class Model(_Table, frozen=True, kw_only=True):
    """One model of a pair. `model` is a hub id or a folder, "bundled:NAME" a folder of this package.

    `shape` is what its published config.json says, read where `source` says. `template` names the family of its chat template,
    `sampling` is what its card advises. `tp_size` fixes over how many GPUs its layers are split.
    """

    model: str
    source: str = ""
    template: Template | None = None
    quantization: Quantization = "none"
    tp_size: Positive | None = None
    sampling: dict[Sampling, Number] = {}
    shape: Shape | None = None

    def __post_init__(self) -> None:
        bundled = [f"{BUNDLE}{folder.name}" for folder in sorted(BUNDLED.iterdir()) if folder.is_dir()]
        if self.model.startswith(BUNDLE) and self.model not in bundled:
            raise UsageError(f"no model {self.model!r}; there are {', '.join(bundled)}")

    @property
    def path(self) -> str:
        """The hub id, or the folder."""
        return str(BUNDLED / self.model.removeprefix(BUNDLE)) if self.model.startswith(BUNDLE) else self.model


class _File(_Table, frozen=True, kw_only=True):
    """What every file has. `policy` are settings of the method."""

    name: str
    title: str
    policy: dict[str, Any] = {}

    def __post_init__(self) -> None:
        typed(self.policy, Settings, "policy")


class Bench(_File, frozen=True, kw_only=True):
    """One file of `eval/benches/`.

    `fields` maps id, problem, answer to the columns of its rows, and for multiple choice either choices, a list, of which answer
    names one (an index from `choices_from`, a letter, a label or the text), or wrong, the others than the one in answer.
    `private` says that no text of a problem may be written anywhere.
    """

    source: Source = Source()
    prompt: str
    grader: Grader
    samples: Positive = 1
    concurrency: Positive = 1
    fields: dict[Field, Columns | str] = {}
    private: bool = False
    choices_from: Literal[0, 1] = 0

    def __post_init__(self) -> None:
        _File.__post_init__(self)
        if {"wrong", "choices"} <= self.fields.keys():
            raise UsageError(
                "fields.wrong and fields.choices: give one of them, choices where one column lists them all"
            )
        if len(self.columns("wrong")) > MOST_WRONG:
            raise UsageError(f"fields.wrong: {MOST_WRONG} columns are the most")

    @property
    def has_choices(self) -> bool:
        return not self.fields.keys().isdisjoint({"wrong", "choices"})

    def columns(self, field: Field) -> list[str]:
        """Of these, the first one that a row has is taken, since copies of a set differ."""
        found = self.fields.get(field, field)
        return [found] if isinstance(found, str) else found


QUESTIONS = Bench(name="questions", title="whatever is asked", prompt="math", grader="math")
"""What stands for a bench where the problems are other people's."""


class Pair(_File, frozen=True, kw_only=True):
    """One file of `eval/pairs/`: two models and how to serve them. `auto` says that it may be chosen for the GPUs that are found.

    `args` are SGLang's own arguments, which come after the computed ones.
    """

    base: Model
    small: Model
    auto: bool = False
    think_tags: tuple[str, ...] = ("<think>", "</think>")
    trust_remote_code: bool = False
    max_total_tokens: dict[Author, Positive] = {}
    args: dict[Author, list[str]] = {}

    def __post_init__(self) -> None:
        _File.__post_init__(self)
        for role, words in self.args.items():
            if taken := [word for word in words if word.partition("=")[0] in OUR_ARGUMENTS]:
                raise UsageError(f"args.{role}: {taken[0]} is not for a pair to set")
        tags = set(self.think_tags)
        if tags and (len(self.think_tags) != 2 or len(tags) < 2 or "" in tags):
            raise UsageError(
                f"think_tags = {list(self.think_tags)}: wants an opening and a closing tag, or [] for models that do not think "
                "before they answer"
            )

    @property
    def models(self) -> dict[Author, Model]:
        return {"small": self.small, "base": self.base}

    def model(self, role: Author) -> str:
        """The model's hub id or folder."""
        return self.models[role].path


class Preset(_File, frozen=True, kw_only=True):
    """One file of `eval/presets/`: named policy settings."""

    policy: dict[str, Any]


class Sweep(_Table, frozen=True, kw_only=True):
    """One file of `eval/sweeps/`: every combination of the values in `grid`, and the `points` besides, with these methods."""

    name: str
    title: str
    grid: dict[str, Annotated[list[Any], Meta(min_length=1)]] = {}
    points: list[dict[str, Any]] = []
    methods: tuple[Method, ...] = ("base", "specreason")

    @property
    def varied(self) -> list[str]:
        """The settings of the method that are varied."""
        return list(dict.fromkeys([*self.grid, *(key for point in self.points for key in point)]))

    def settings(self) -> list[dict[str, Any]]:
        """Those of each combination, the first key changing slowest, and then of each point."""
        combined = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        return [*(combined if self.grid else []), *self.points]


def names(kind: Kind) -> list[str]:
    """The names that ship or that the user has put in `eval/<kind>/`."""
    return sorted(path.stem for path in (find("eval") / kind).glob("*.toml"))


def load_bench(name: str) -> Bench:
    """The bench `name`, or the file that a path ending in .toml names. Raises UsageError with the nearest names."""
    path, table = _read("benches", name)
    with named(path):
        return typed(table, Bench)


def load_pair(name: str) -> Pair:
    """The pair `name`, or a user's file. Raises UsageError with the nearest names."""
    path, table = _read("pairs", name)
    for role in get_args(Author):
        if isinstance(table.get(role), str):  # only its hub id or folder
            table[role] = {"model": table[role]}
    with named(path):
        return typed(table, Pair)


def load_preset(name: str) -> Preset:
    """The preset `name`, or a user's file. Raises UsageError with the nearest names."""
    path, table = _read("presets", name)
    with named(path):
        return typed(table, Preset)


def load_sweep(name: str) -> Sweep:
    """The sweep `name`, or a user's file. Raises UsageError with the nearest names."""
    path, table = _read("sweeps", name)
    with named(path):
        sweep = typed(table, Sweep)
        if not sweep.varied:
            raise UsageError("neither [grid] nor [[points]] has settings")
        if (points := math.prod(map(len, sweep.grid.values())) + len(sweep.points)) > MOST_POINTS:
            raise UsageError(f"grid and points are {points} points; {MOST_POINTS} are the most")
        for point in sweep.settings():
            typed(point, Settings, "points" if point in sweep.points else "grid")
        return sweep


def build_policy(*layers: dict[str, Any]) -> Policy:
    """A policy from settings of which the later ones win. Raises UsageError for unknown names and bad values.

    A layer that asks for another judge, or for a rule with another range, without saying more, gets the rule and the
    threshold that go with it and not those of an earlier layer; one that asks for several drafts, or for a gate with no judge
    to run beside, gets no lookahead.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        typed(layer, Settings)
        merged |= layer
        if (layer.get("drafts", 1) > 1 or layer.get("gate") == "entropy") and "lookahead" not in layer:
            merged["lookahead"] = 0
        rules = JUDGES[merged.get("judge", "score")]
        if "judge" in layer and "score_rule" not in layer and merged.get("score_rule", "greedy") not in rules:
            merged["score_rule"] = rules[0]
        span = RANGES[merged.get("score_rule", "greedy")]
        asked = "judge" in layer or "score_rule" in layer
        if asked and "threshold" not in layer and not span.low <= merged.get("threshold", 7) <= span.high:
            merged["threshold"] = span.default
    return Policy(**merged)


def _read(kind: Kind, name: str) -> tuple[Path, dict[str, Any]]:
    if name.endswith(".toml"):
        path = Path(name)
    elif name in (known := names(kind)):
        path = find("eval") / kind / f"{name}.toml"
    else:
        raise UsageError(f"no {SINGULAR[kind]} named {name!r}{nearest(name, known)}")
    return path, read_toml(path)


def read_toml(path: Path) -> dict[str, Any]:
    """A file's table, with the name that it goes by. Raises UsageError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise UsageError(f"{path}: cannot be read: it is nested too deep") from None
    except (OSError, ValueError) as error:  # as are bad TOML, bytes that are no text and NUL in a path
        raise UsageError(f"{path}: cannot be read: {error}") from None
    table = {"name": path.stem, **table}
    named = table["name"]
    if isinstance(named, str) and (not _NAME.fullmatch(named) or len(named.encode()) > NAME_BYTES):
        raise UsageError(
            f"{path}: name = {named[:100]!r}: wants letters, digits and . _ + - only, a letter or digit first, and at most "
            f"{NAME_BYTES} bytes (the file's own name where it gives none)"
        )
    return table


@contextmanager
def named(path: Path) -> Iterator[None]:
    """What is wrong in here is said of this file."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
