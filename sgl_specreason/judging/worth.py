"""Owns what a judge's numbers are worth on labelled steps (pure). Knows no files, models or engines.

Problems are the clusters: intervals come from weights drawn for whole problems, so that a long solution is not many
witnesses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sgl_specreason.results import stats
from sgl_specreason.results.stats import NO_INTERVAL, Interval

Floats = NDArray[np.float64]
DRAWS, FEWER_DRAWS, MANY = 4000, 1000, 1000
"""How often problems are weighed: less often where there are many, since each time costs as much as pairs of them."""
BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Labelled steps in the order of their problems: `problem` numbers them from 0, `place` is a step's place in its own.

    `first_wrong` is of each problem the place of its first wrong step, -1 where none is. Not `complete`: some problems have steps
    that are not among these, and nobody knows whether one without a wrong step has none.
    """

    problem: NDArray[np.int64]
    place: NDArray[np.int64]
    right: NDArray[np.bool_]
    complete: bool = True
    first_wrong: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        first = np.full(self.problems, -1)
        wrong = ~self.right
        for number, place in zip(self.problem[wrong][::-1], self.place[wrong][::-1], strict=True):
            first[number] = place
        object.__setattr__(self, "first_wrong", first)

    @property
    def problems(self) -> int:
        return int(self.problem.max()) + 1 if len(self.problem) else 0

    @property
    def too_few(self) -> bool:
        """Whether nothing can be said of how well these are told apart."""
        return min(int(self.right.sum()), int((~self.right).sum()), self.problems) < stats.FEW


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """How well right steps are told from wrong ones: the AUROC with its 95 % interval by problem, NaN where there are too few."""

    value: float
    ci95: Interval


def concordance(steps: Steps, values: Floats) -> Floats:
    """For each pair of problems (of the right step, of the wrong one), how many such pairs of steps are in the right order.

    Equal values count as half. A matrix of problems x problems.
    """
    right, owners = values[steps.right], steps.problem[steps.right]
    found = np.zeros((steps.problems, steps.problems))
    for wrong, owner in zip(values[~steps.right], steps.problem[~steps.right], strict=True):
        order = (right > wrong) + 0.5 * (right == wrong)
        found[:, owner] += np.bincount(owners, weights=order, minlength=steps.problems)
    return found


def area(steps: Steps, values: Floats) -> Area:
    """The AUROC of these values."""
    return _area(steps, concordance(steps, values), floor=0.0)


def difference(steps: Steps, ours: Floats, theirs: Floats) -> Area:
    """How much higher the AUROC of `ours` is than that of `theirs` on the same steps, paired."""
    return _area(steps, concordance(steps, ours) - concordance(steps, theirs), floor=-1.0)


def _area(steps: Steps, pairs: Floats, *, floor: float) -> Area:
    """The mean over pairs of steps, and its interval: problems weighed at random, as in a Bayesian bootstrap, beside one more
    problem that nobody has seen, with as many right and wrong steps as one has on average, which is as bad, or as good, as can
    be (as `stats.mean_ci95` does for means). So a perfect score of few problems has an interval, too."""
    if steps.too_few:
        return Area(value=math.nan, ci95=NO_INTERVAL)
    rights = np.bincount(steps.problem[steps.right], minlength=steps.problems).astype(float)
    wrongs = np.bincount(steps.problem[~steps.right], minlength=steps.problems).astype(float)
    draws = DRAWS if steps.problems <= MANY else FEWER_DRAWS
    weights = np.random.default_rng(stats.SEED).standard_exponential((draws, steps.problems + 1))
    seen, unseen = weights[:, :-1], weights[:, -1]
    inside = np.einsum("di,di->d", seen @ pairs, seen)
    top, bottom = seen @ rights, seen @ wrongs
    more_right, more_wrong = unseen * rights.mean(), unseen * wrongs.mean()
    total = (top + more_right) * (bottom + more_wrong)
    added = total - top * bottom  # pairs in which the unseen problem has a part
    low = np.quantile((inside + floor * added) / total, 0.025)
    high = np.quantile((inside + added) / total, 0.975)
    value = pairs.sum() / (rights.sum() * wrongs.sum())
    return Area(value=float(value), ci95=(max(float(low), floor), min(float(high), 1.0)))


def average_precision(steps: Steps, values: Floats) -> float:
    """Of finding wrong steps by their low values; equal values are found together. NaN without both kinds.

    By chance it is the share of wrong steps.
    """
    wrong = ~steps.right
    if wrong.all() or not wrong.any():
        return math.nan
    _, level, counts = np.unique(values, return_inverse=True, return_counts=True)
    hits = np.bincount(level, weights=wrong.astype(float))
    found, flagged = np.cumsum(hits), np.cumsum(counts)
    return float(np.sum(hits / wrong.sum() * found / flagged))


def brier(steps: Steps, probabilities: Floats) -> float:
    """The mean squared error of these as probabilities that a step is right; 0 is perfect. NaN for no steps."""
    return float(np.mean((probabilities - steps.right) ** 2)) if len(probabilities) else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Steps of similar probability: how many, the mean probability, the share that is right."""

    count: int
    probability: float
    right: float


def reliability(steps: Steps, probabilities: Floats) -> list[Bin]:
    """In ten bins of equal width; empty ones are left out."""
    number = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return [
        Bin(
            count=int(mine.sum()),
            probability=float(probabilities[mine].mean()),
            right=float(steps.right[mine].mean()),
        )
        for mine in (number == at for at in range(BINS))
        if mine.any()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a threshold keeps: shares of all steps, of right ones, of wrong ones; and ProcessBench's F1, with its two parts.

    The parts are the share of problems with a wrong step whose first wrong step is the first one refused, and the share of
    right ones of which nothing is refused. The F1 is their harmonic mean (arXiv 2412.06559).
    """

    threshold: float
    kept: float
    right_kept: float
    wrong_kept: float
    found: float
    spared: float

    @property
    def f1(self) -> float:
        if math.isnan(self.found) or math.isnan(self.spared):
            return math.nan
        both = self.found + self.spared
        return 2 * self.found * self.spared / both if both else 0.0


def cut(steps: Steps, values: Floats, threshold: float) -> Cut:
    """What is kept with at least `threshold`."""
    kept = values >= threshold
    refused = np.full(steps.problems, -1)
    for number, place in zip(steps.problem[~kept][::-1], steps.place[~kept][::-1], strict=True):
        refused[number] = place
    has_wrong = steps.first_wrong >= 0
    return Cut(
        threshold=threshold,
        kept=_share(kept),
        right_kept=_share(kept[steps.right]),
        wrong_kept=_share(kept[~steps.right]),
        found=_share(refused[has_wrong] == steps.first_wrong[has_wrong]),
        spared=_share(refused[~has_wrong] == -1) if steps.complete else math.nan,
    )


def best_cut(steps: Steps, values: Floats, *, most: int = 200) -> Cut:
    """The threshold with the highest F1 on these very steps, of all that keep different ones, or of `most` of them.

    That is a little too good: it was chosen on the steps that it is measured on.
    """
    levels = np.unique(values)
    if len(levels) > most:
        levels = np.unique(np.quantile(values, np.linspace(0, 1, most)))
    return max(
        (cut(steps, values, float(level)) for level in levels), key=lambda found: (not math.isnan(found.f1), found.f1)
    )


def _share(values: Sequence[bool] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
