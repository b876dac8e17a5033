"""Owns the files of `eval/traces/`: lengths, digits, verdicts and seconds of real runs, read and checked.

Knows no engines and no texts: there are only numbers in them. A file's first line says what it is and where it is from.
"""

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from sgl_specreason.errors import UsageError
from sgl_specreason.method.score import ScoreRule
from sgl_specreason.paths import find
from sgl_specreason.plan.benches import read_jsonl
from sgl_specreason.typed import LARGEST, Count, Number, Positive, nearest, typed

DEFAULT = "qwq-32b+r1-1.5b.aime24"
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=LARGEST)]
Digit = Annotated[int, Meta(ge=0, le=9)]


class PublishedStep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step: tokens of small's draft and of base's own version, which there is of a rejected draft only.

    `score` is the judge's digit, `digits` the probabilities that it gave all ten, where these are known.
    """

    draft: Count
    base: Count | None = None
    score: Digit
    digits: Annotated[list[Share], Meta(min_length=10, max_length=10)] | None = None
    draft_s: Seconds | None = None
    judge_s: Seconds | None = None
    base_s: Seconds | None = None

    @property
    def accepted(self) -> bool:
        return self.base is None

    @property
    def written(self) -> int:
        """Tokens of what was kept."""
        return self.draft if self.base is None else self.base


class PublishedRun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trajectory."""

    problem: str
    sample: Count = 0
    right: bool | None = None
    steps: Annotated[tuple[PublishedStep, ...], Meta(min_length=1)]


class About(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a file."""

    title: str
    source: str
    threshold: Number
    score_rule: ScoreRule
    budget_tokens: Positive


class Published(Struct, frozen=True, kw_only=True):
    """A file of published runs. `name` is what it is called on a command line."""

    name: str
    about: About
    runs: tuple[PublishedRun, ...]

    @property
    def steps(self) -> list[PublishedStep]:
        return [step for run in self.runs for step in run.steps]


def names() -> list[str]:
    """The traces that ship or that the user has put in `eval/traces/`."""
    return sorted(path.stem for path in find("eval/traces").glob("*.jsonl"))


def is_name(word: str) -> bool:
    """Whether a word on a command line is a trace and not a run folder."""
    return word.endswith(".jsonl") or (word in names() and not os.path.exists(word))


def load(name: str) -> Published:
    """The trace `name`, or the file that a path ending in .jsonl names. Raises UsageError (file:line)."""
    if name.endswith(".jsonl"):
        return _read(Path(name))
    if name not in (known := names()):
        raise UsageError(f"no trace named {name!r}{nearest(name, known)}")
    return _read(find("eval/traces") / f"{name}.jsonl")


@cache
def _read(path: Path) -> Published:
    rows = read_jsonl(path)
    if len(rows) < 2:
        raise UsageError(f"{path}: wants a line that says what it is, and a line for each run")
    (where, first), *others = rows
    about = _typed(where, first, About)
    return Published(name=path.stem, about=about, runs=tuple(_typed(place, row, PublishedRun) for place, row in others))


def _typed(where: str, row: Any, shape: Any) -> Any:
    try:
        return typed(row, shape)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
