"""Owns the declarative files of `eval/`: benches, pairs, presets and sweeps, read and checked.

Knows nothing of engines, rows or command lines.
"""

import difflib
import itertools
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from sgl_specreason.errors import UsageError
from sgl_specreason.paths import find
from sgl_specreason.policy import Author, Policy
from sgl_specreason.score import JUDGES, RANGES

Kind = Literal["benches", "pairs", "presets", "sweeps"]
Grader = Literal["math", "integer", "letter", "number"]
SINGULAR: dict[Kind, str] = {"benches": "bench", "pairs": "pair", "presets": "preset", "sweeps": "sweep"}
BUNDLED = Path(__file__).parent / "demo" / "models"


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
    rows: int | None = None
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
    samples: int = 1
    concurrency: int = 1
    fields: dict[str, list[str]] = field(default_factory=dict)
    private: bool = False
    policy: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One file of `eval/pairs/`: two models and how to serve them. `gpu_gb` is the least GPU memory; 0 means no GPU needed."""

    name: str
    title: str
    base: str
    small: str
    gpu_gb: int = 0
    trust_remote_code: bool = False
    max_total_tokens: dict[str, int] = field(default_factory=dict)
    args: dict[str, list[str]] = field(default_factory=dict)

    def model(self, role: Author) -> str:
        """The model's hub id or folder; "bundled:NAME" is a folder of this package."""
        model = self.base if role == "base" else self.small
        if model.startswith("bundled:"):
            return str(BUNDLED / model.removeprefix("bundled:"))
        return model


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
    grid: dict[str, list[Any]]
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
    source = table.pop("source", {})
    columns = table.get("fields", {})
    table["fields"] = {name: [found] if isinstance(found, str) else found for name, found in columns.items()}
    bench: Bench = _build(Bench, path, table, source=_build(Source, path, source))
    if bench.grader not in get_args(Grader):
        raise UsageError(f"{path}: grader = {bench.grader!r}: one of {', '.join(get_args(Grader))}")
    return bench


def load_pair(name: str) -> Pair:
    """The pair `name`, or a user's file. Raises UsageError with the nearest names."""
    pair: Pair = _build(Pair, *_read("pairs", name))
    return pair


def load_preset(name: str) -> Preset:
    """The preset `name`, or a user's file. Raises UsageError with the nearest names."""
    preset: Preset = _build(Preset, *_read("presets", name))
    return preset


def load_sweep(name: str) -> Sweep:
    """The sweep `name`, or a user's file. Raises UsageError with the nearest names."""
    path, table = _read("sweeps", name)
    sweep: Sweep = _build(Sweep, path, table)
    known = [item.name for item in fields(Policy)]
    for key, values in sweep.grid.items():
        if key not in known:
            raise UsageError(f"{path}: unknown policy setting {key!r}{nearest(key, sorted(known))}")
        if not isinstance(values, list) or not values:
            raise UsageError(f"{path}: grid.{key}: a list of values is wanted")
    if not sweep.grid:
        raise UsageError(f"{path}: grid has no settings")
    return sweep


def build_policy(*layers: dict[str, Any]) -> Policy:
    """A policy from settings of which the later ones win. Raises UsageError for unknown names and bad values.

    A layer that asks for another judge, or for a rule with another range, without saying more, gets the rule and the
    threshold that go with it and not those of an earlier layer.
    """
    known = {item.name for item in fields(Policy)}
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key not in known:
                raise UsageError(f"unknown policy setting {key!r}{nearest(key, sorted(known))}")
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
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    return path, {"name": path.stem, **table}


def _build(cls: type[Any], path: Path, table: dict[str, Any], **ready: Any) -> Any:
    known = {item.name for item in fields(cls)}
    for key in table:
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}{nearest(key, sorted(known))}")
    try:
        return cls(**table, **ready)
    except TypeError as error:
        raise UsageError(f"{path}: {str(error).split(') ')[-1].split('() ')[-1]}") from None
