"""Owns the declarative files of `eval/`: benches, pairs, presets and sweeps, read and checked.

Knows nothing of engines, rows or command lines.
"""

import difflib
import itertools
import math
import re
import tomllib
from collections.abc import Collection
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import Policy
from sgl_specreason.method.score import JUDGES, RANGES
from sgl_specreason.paths import find
from sgl_specreason.plan.memory import Quantization, Shape
from sgl_specreason.shapes import Within, flaw
from sgl_specreason.text.steps import Author

Kind = Literal["benches", "pairs", "presets", "sweeps"]
Grader = Literal["math", "integer", "letter", "number"]
Template = Literal["chatml", "chatml-think", "qwen3", "r1"]
SINGULAR: dict[Kind, str] = {"benches": "bench", "pairs": "pair", "presets": "preset", "sweeps": "sweep"}
BUNDLED = Path(__file__).parent.parent / "demo" / "models"
BUNDLE = "bundled:"
SAMPLING = ("temperature", "top_p", "top_k", "min_p")
FIELDS = ("id", "problem", "answer", "wrong")
OUR_ARGUMENTS = ("--model-path", "--model", "--port", "--api-key")
MOST_POINTS = 1000
NAME_BYTES = 64
_NAME = re.compile(r"[^\W_][\w.+-]*")  # it becomes a part of folders' names
Positive = Annotated[int, Within(1)]
POLICY: dict[str, Any] = {
    name: str if get_origin(hint) is Literal else hint for name, hint in get_type_hints(Policy).items()
}
"""The type of each setting; which words it may be, and in what range, Policy itself knows."""
Columns = Annotated[list[str], Within(1, 9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where rows come from: a generator of this package, or a set on the Hugging Face hub.

    `configs` are the set's configurations, whose rows follow each other; none means its only one. `gated` says that the
    hub gives the set only to people who have accepted its terms.
    """

    generator: str | None = None
    hub: str | None = None
    configs: list[str] = field(default_factory=list)
    split: str = "test"
    revision: str | None = None
    rows: Annotated[int, Within(1, 10_000)] | None = None
    gated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One file of `eval/benches/`.

    `fields` maps id, problem, answer (and, for choices, wrong) to the columns of its rows: several names mean that the
    first one which a row has is taken, since copies of a set differ. `private` says that no text of a problem may be
    written anywhere.
    """

    name: str
    title: str
    source: Source
    prompt: str
    grader: Grader
    samples: Positive = 1
    concurrency: Positive = 1
    fields: dict[str, Columns] = field(default_factory=dict)
    private: bool = False
    policy: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of a pair. `model` is a hub id or a folder, "bundled:NAME" a folder of this package.

    `shape` is what its published config.json says, read where `source` says. `template` names the family of its chat template,
    `sampling` is what its card advises. `tp_size` fixes over how many GPUs its layers are split.
    """

    model: str
    source: str = ""
    template: Template | None = None
    quantization: Quantization = "none"
    tp_size: Positive | None = None
    sampling: dict[str, float] = field(default_factory=dict)
    shape: Shape | None = None

    @property
    def path(self) -> str:
        """The hub id, or the folder."""
        return str(BUNDLED / self.model.removeprefix(BUNDLE)) if self.model.startswith(BUNDLE) else self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One file of `eval/pairs/`: two models and how to serve them. `auto` says that it may be chosen for the GPUs that are found.

    `args` are SGLang's own arguments, which come after the computed ones. `policy` has settings of the method for this pair.
    """

    name: str
    title: str
    base: Model
    small: Model
    auto: bool = False
    think_tags: Annotated[list[str], Within(2, 2)] = field(default_factory=lambda: ["<think>", "</think>"])
    policy: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    max_total_tokens: dict[str, Positive] = field(default_factory=dict)
    args: dict[str, list[str]] = field(default_factory=dict)

    @property
    def models(self) -> dict[Author, Model]:
        return {"small": self.small, "base": self.base}

    def model(self, role: Author) -> str:
        """The model's hub id or folder."""
        return self.models[role].path


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One file of `eval/presets/`: named policy settings."""

    name: str
    title: str
    policy: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One file of `eval/sweeps/`: every combination of the listed values of policy settings, with these methods."""

    name: str
    title: str
    grid: dict[str, Annotated[list[Any], Within(1)]]
    methods: list[str] = field(default_factory=lambda: ["base", "specreason"])

    def points(self) -> list[dict[str, Any]]:
        """The settings of each combination, the first key changing slowest."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


def names(kind: Kind) -> list[str]:
    """The names that ship or that the user has put in `eval/<kind>/`."""
    return sorted(path.stem for path in (find("eval") / kind).glob("*.toml"))


def load_bench(name: str) -> Bench:
    """The bench `name`, or the file that a path ending in .toml names. Raises UsageError with the nearest names."""
    path, table = _read("benches", name)
    source: Source = _build(Source, path, table.pop("source", {}), "source.")
    columns = table.get("fields", {})
    if isinstance(columns, dict):
        table["fields"] = {name: [found] if isinstance(found, str) else found for name, found in columns.items()}
    bench: Bench = _build(Bench, path, table, source=source)
    _known(path, bench.fields, FIELDS, "fields.")
    _check_policy(path, bench.policy)
    return bench


def load_pair(name: str) -> Pair:
    """The pair `name`, or a user's file. Raises UsageError with the nearest names."""
    path, table = _read("pairs", name)
    models: dict[str, Any] = {role: _model(path, role, table.pop(role)) for role in get_args(Author) if role in table}
    pair: Pair = _build(Pair, path, table, **models)
    _known(path, pair.args, get_args(Author), "args.")
    _known(path, pair.max_total_tokens, get_args(Author), "max_total_tokens.")
    _check_policy(path, pair.policy)
    for role, words in pair.args.items():
        if taken := [word for word in words if word.partition("=")[0] in OUR_ARGUMENTS]:
            raise UsageError(f"{path}: args.{role}: {taken[0]} is not for a pair to set")
    if "" in pair.think_tags or pair.think_tags[0] == pair.think_tags[1]:
        raise UsageError(f"{path}: think_tags = {pair.think_tags}: wants an opening and a closing tag")
    return pair


def _model(path: Path, role: str, table: Any) -> Model:
    """A model of a pair: a table, or only its hub id or folder."""
    table = {"model": table} if isinstance(table, str) else dict(table) if isinstance(table, dict) else table
    shape: Shape | None = None
    if isinstance(table, dict) and "shape" in table:
        shape = _build(Shape, path, table.pop("shape"), f"{role}.shape.")
    model: Model = _build(Model, path, table, f"{role}.", shape=shape)
    _known(path, model.sampling, SAMPLING, f"{role}.sampling.")
    bundled = sorted(folder.name for folder in BUNDLED.iterdir() if folder.is_dir())
    if model.model.startswith(BUNDLE) and model.model.removeprefix(BUNDLE) not in bundled:
        raise UsageError(
            f"{path}: no model {model.model!r}; there are {', '.join(f'{BUNDLE}{name}' for name in bundled)}"
        )
    return model


def load_preset(name: str) -> Preset:
    """The preset `name`, or a user's file. Raises UsageError with the nearest names."""
    path, table = _read("presets", name)
    preset: Preset = _build(Preset, path, table)
    _check_policy(path, preset.policy)
    return preset


def load_sweep(name: str) -> Sweep:
    """The sweep `name`, or a user's file. Raises UsageError with the nearest names."""
    path, table = _read("sweeps", name)
    sweep: Sweep = _build(Sweep, path, table)
    _known(path, sweep.grid, POLICY, "grid.")
    if not sweep.grid:
        raise UsageError(f"{path}: grid has no settings")
    if (points := math.prod(map(len, sweep.grid.values()))) > MOST_POINTS:
        raise UsageError(f"{path}: grid has {points} points; {MOST_POINTS} are the most")
    return sweep


def build_policy(*layers: dict[str, Any]) -> Policy:
    """A policy from settings of which the later ones win. Raises UsageError for unknown names and bad values.

    A layer that asks for another judge, or for a rule with another range, without saying more, gets the rule and the
    threshold that go with it and not those of an earlier layer.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key not in POLICY:
                raise UsageError(f"unknown policy setting {key!r}{nearest(key, sorted(POLICY))}")
            if wrong := flaw(value, POLICY[key], key):
                raise UsageError(wrong)
            merged[key] = value
        rules = JUDGES.get(merged.get("judge", "score"), ())
        if "judge" in layer and "score_rule" not in layer and merged.get("score_rule", "greedy") not in rules:
            merged["score_rule"] = next(iter(rules), "greedy")
        span = RANGES.get(merged.get("score_rule", "greedy"))
        asked = "judge" in layer or "score_rule" in layer
        if asked and span and "threshold" not in layer and not span.low <= merged.get("threshold", 7) <= span.high:
            merged["threshold"] = span.default
    return Policy(**merged)


def nearest(name: str, known: list[str]) -> str:
    """ "; did you mean ...?" with what is close to `name`, or the whole list."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(known)}"


def _read(kind: Kind, name: str) -> tuple[Path, dict[str, Any]]:
    if name.endswith(".toml"):
        path = Path(name)
    elif name in (known := names(kind)):
        path = find("eval") / kind / f"{name}.toml"
    else:
        raise UsageError(f"no {SINGULAR[kind]} named {name!r}{nearest(name, known)}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise UsageError(f"{path}: cannot be read: it is nested too deep") from None
    except (
        OSError,
        ValueError,
    ) as error:  # TOMLDecodeError is one, and so are bytes that are no text and NUL in a path
        raise UsageError(f"{path}: cannot be read: {error}") from None
    table = {"name": path.stem, **table}
    named = table["name"]
    if isinstance(named, str) and (not _NAME.fullmatch(named) or len(named.encode()) > NAME_BYTES):
        raise UsageError(
            f"{path}: name = {named[:100]!r}: wants letters, digits and . _ + - only, a letter or digit first, and at most "
            f"{NAME_BYTES} bytes (the file's own name where it gives none)"
        )
    return path, table


def _build(cls: type[Any], path: Path, table: Any, prefix: str = "", **ready: Any) -> Any:
    """A `cls` of the file's table, each key checked against its field's annotation. Raises UsageError that names file and key."""
    if wrong := flaw(table, dict[str, Any], prefix.rstrip(".")):
        raise UsageError(f"{path}: {wrong}")
    hints = get_type_hints(cls, include_extras=True)
    _known(path, table, hints, prefix)
    for item in fields(cls):
        if item.name in table:
            if wrong := flaw(table[item.name], hints[item.name], prefix + item.name):
                raise UsageError(f"{path}: {wrong}")
        elif item.name not in ready and item.default is MISSING and item.default_factory is MISSING:
            raise UsageError(f"{path}: {prefix}{item.name} is missing")
    return cls(**table, **ready)


def _check_policy(path: Path, policy: dict[str, Any]) -> None:
    """Raises UsageError for a setting that there is not, or of the wrong type; its range is known where all are together."""
    _known(path, policy, POLICY, "policy.")
    for key, value in policy.items():
        if wrong := flaw(value, POLICY[key], f"policy.{key}"):
            raise UsageError(f"{path}: {wrong}")


def _known(path: Path, table: Collection[str], known: Collection[str], prefix: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key {prefix + key!r}{nearest(key, sorted(known))}")
