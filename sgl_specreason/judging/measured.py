"""Owns a measurement as it is read from its folder: the steps, and the numbers that each judge's answers can be read by.

Knows no engines, and writes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from sgl_specreason.errors import RecordError
from sgl_specreason.judging import worth
from sgl_specreason.judging.folder import Answer, StepsFolder
from sgl_specreason.judging.worth import Area, Floats, Steps
from sgl_specreason.method.policy import P_GE_ACCEPTS
from sgl_specreason.method.score import JUDGES, RANGES, ScoreRule
from sgl_specreason.results import stats
from sgl_specreason.results.records import CONFIG, read_config
from sgl_specreason.results.schema import Data
from sgl_specreason.typed import Count, Misfit, Number, typed

DIGITS: tuple[ScoreRule, ...] = JUDGES["score"]


class Asked(Data, frozen=True, kw_only=True):
    """A judge with its templates' hashes."""

    name: str
    judge: str
    prompts: dict[str, str]


class Settings(Data, frozen=True, kw_only=True):
    bench: str
    pair: str
    models: dict[str, str]
    judges: list[Asked]
    dataset_sha256: str
    concurrency: Count = 1
    limit: int | None = None


class Config(Data, frozen=True, kw_only=True):
    """config.json of a measurement."""

    settings: Settings
    title: str
    problems: Count
    steps: Count
    thresholds: dict[ScoreRule, Number]
    dataset_origin: str = ""
    gpu: str = ""
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    commit: str | None = None
    day: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A number that a judge's answer can be read by. `values`: one a step, higher is better; `cut` is where it is kept from.

    `probabilities` are the same as probabilities that a step is right, where they can be read so.
    """

    judge: str
    rule: ScoreRule
    threshold: float
    cut: float
    values: Floats
    probabilities: Floats | None

    @property
    def name(self) -> str:
        return f"{self.judge} {self.rule}"

    @property
    def place(self) -> str:
        """The threshold in words."""
        return f"threshold {self.threshold:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a judgement took where this judge had the step computed, and how much was cached then: a median, and means."""

    count: int
    ms: float
    new_tokens: float
    cached_tokens: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A folder's steps and what was said of them, of all judges the same ones."""

    path: Path
    config: Config
    answers: dict[str, list[Answer]]
    steps: Steps

    @property
    def partial(self) -> bool:
        return not self.steps.complete

    @cached_property
    def signals(self) -> list[Signal]:
        found: list[Signal] = []
        for asked in self.config.settings.judges:
            said = self.answers[asked.name]
            rules = {"binary": JUDGES["binary"], "likelihood": JUDGES["likelihood"]}.get(asked.judge, DIGITS)
            found += [_signal(asked.name, rule, said, self.config.thresholds) for rule in rules]
        return found

    @cached_property
    def areas(self) -> dict[str, Area]:
        """Of each signal by its name."""
        return {signal.name: worth.area(self.steps, signal.values) for signal in self.signals}

    @cached_property
    def best(self) -> Signal:
        """The one that tells right from wrong best on these steps."""
        return max(self.signals, key=lambda signal: self.areas[signal.name].value)

    def costs(self, judge: str) -> Cost:
        first = [said for said in self.answers[judge] if said.first]
        cached = [said.cached_tokens for said in first if said.cached_tokens is not None]
        new = [said.prompt_tokens - (said.cached_tokens or 0) for said in first]
        return Cost(
            count=len(first),
            ms=1000 * stats.percentile([said.seconds for said in first], 50),  # the first request of all is a slow one
            new_tokens=mean(new),
            cached_tokens=mean(cached),
        )

    @property
    def cached_share(self) -> float:
        """Of all prompt tokens of requests that say so."""
        known = [one for said in self.answers.values() for one in said if one.cached_tokens is not None]
        total = sum(one.prompt_tokens for one in known)
        return sum(one.cached_tokens or 0 for one in known) / total if total else math.nan


def measured(path: Path) -> Measured:
    """What stands in a folder. Raises RecordError."""
    try:
        config = typed(read_config(path / CONFIG), Config)
    except Misfit as error:
        raise RecordError(f"{path / CONFIG}: not a judge's measurement: {error}") from None
    lines = StepsFolder.found(path).lines
    if not lines:
        raise RecordError(f"{path}: no step has been judged yet")
    numbers: dict[str, int] = {}
    for line in lines:
        numbers.setdefault(line.problem, len(numbers))
    lines.sort(key=lambda line: (numbers[line.problem], line.step))
    names = [asked.name for asked in config.settings.judges]
    for line in lines:
        if missing := [name for name in names if name not in line.said]:
            raise RecordError(f"{path}: problem {line.problem}, step {line.step} has no answer of {missing[0]}")
    steps = Steps(
        problem=np.array([numbers[line.problem] for line in lines], dtype=np.int64),
        place=np.array([line.step for line in lines], dtype=np.int64),
        right=np.array([line.right for line in lines], dtype=np.bool_),
        complete=len(lines) >= config.steps,
    )
    return Measured(
        path=path, config=config, answers={name: [line.said[name] for line in lines] for name in names}, steps=steps
    )


def _signal(judge: str, rule: ScoreRule, said: Sequence[Answer], thresholds: Mapping[ScoreRule, float]) -> Signal:
    threshold = thresholds.get(rule, RANGES[rule].default)
    probabilities: Floats | None = None
    cut = threshold
    if rule in DIGITS:
        digits = np.array([one.digits or [math.nan] * 10 for one in said], dtype=float).reshape(len(said), 10)
        if rule == "greedy":
            values = digits.argmax(axis=1).astype(float)
        elif rule == "expected":
            values = digits @ np.arange(10.0)
            probabilities = np.clip(values / 9, 0, 1)
        else:
            values = np.clip(digits[:, math.ceil(threshold) :].sum(axis=1), 0, 1)
            probabilities, cut = values, P_GE_ACCEPTS
    else:
        key = {"p_yes": "p_yes", "min": "logprob_min", "mean": "logprob_mean"}[rule]
        values = np.array([cast(float, getattr(one, key)) for one in said], dtype=float)
        if rule == "p_yes":
            probabilities = values
    return Signal(
        judge=judge, rule=rule, threshold=threshold, cut=cut, values=np.round(values, 9), probabilities=probabilities
    )


def mean(values: Sequence[float]) -> float:
    """NaN for no values."""
    return float(np.mean(values)) if len(values) else math.nan
