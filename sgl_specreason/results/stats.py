"""Owns the statistics of a run (pure functions). Knows nothing of files or engines."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BOOTSTRAP_DRAWS = 10_000
BOOTSTRAP_SEED = 2504


def accuracy(by_problem: Sequence[Sequence[bool]]) -> float:
    """The mean over problems of the mean over samples, 0..1. NaN for no problems."""
    if not by_problem:
        return math.nan
    return float(np.mean([np.mean(samples) for samples in by_problem]))


def clustered_se(by_problem: Sequence[Sequence[bool]]) -> float:
    """The accuracy's standard error with problems as clusters and the finite-cluster correction n/(n-1). NaN under 2 problems."""
    count = len(by_problem)
    if count < 2:
        return math.nan
    means = np.array([np.mean(samples) for samples in by_problem])
    return float(np.sqrt(np.sum((means - means.mean()) ** 2) / (count * (count - 1))))


def bootstrap_ci95(by_problem: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """The 95 % percentile interval of the accuracy, problems redrawn whole; a fixed seed makes it repeatable."""
    return _interval([float(np.mean(samples)) for samples in by_problem])


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of one value per problem. NaN for none."""
    if not values:
        return math.nan, math.nan
    rng, array = np.random.default_rng(BOOTSTRAP_SEED), np.array(values)
    means = [
        array[rng.integers(0, len(array), size=(100, len(array)))].mean(axis=1) for _ in range(BOOTSTRAP_DRAWS // 100)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A method against another on the same problems: the difference of accuracies, its interval, and an exact sign test.

    `better` and `worse` count the problems on which its mean over samples is higher and lower.
    """

    n: int
    difference: float
    ci95: tuple[float, float]
    better: int
    worse: int
    sign_p: float


def paired(ours: Mapping[str, Sequence[bool]], theirs: Mapping[str, Sequence[bool]]) -> Paired:
    """The difference ours - theirs over the problems that both have, by problem id."""
    shared = sorted(ours.keys() & theirs.keys())
    differences = [float(np.mean(ours[problem]) - np.mean(theirs[problem])) for problem in shared]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Paired(
        n=len(shared),
        difference=mean(differences),
        ci95=_interval(differences),
        better=better,
        worse=worse,
        sign_p=sign_test(better, worse),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio of means with the 95 % interval of a bootstrap that redraws whole problems."""

    value: float
    ci95: tuple[float, float]


def ratio_of_means(above: Mapping[str, Sequence[float]], below: Mapping[str, Sequence[float]]) -> Ratio:
    """The mean of `above` over the mean of `below`, by problem over those that both have. NaN for none."""
    shared = sorted(above.keys() & below.keys())
    if not shared:
        return Ratio(value=math.nan, ci95=(math.nan, math.nan))
    values = np.array([[float(np.mean(side[problem])) for problem in shared] for side in (above, below)])
    rng, ratios = np.random.default_rng(BOOTSTRAP_SEED), []
    for _ in range(BOOTSTRAP_DRAWS // 100):
        drawn = rng.integers(0, len(shared), size=(100, len(shared)))
        top, bottom = values[0][drawn].mean(axis=1), values[1][drawn].mean(axis=1)
        ratios.append(top / bottom)
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return Ratio(value=float(values[0].mean() / values[1].mean()), ci95=(float(low), float(high)))


def sign_test(better: int, worse: int) -> float:
    """The two-sided exact p-value that as uneven a split comes from a fair coin; ties are not counted. 1 for no pairs."""
    count = better + worse
    tail = sum(math.comb(count, k) for k in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**count))


def pass_at_k(by_problem: Sequence[Sequence[bool]], k: int) -> float:
    """The unbiased estimate of "one of k samples is right" (arXiv 2107.03374). NaN if a problem has fewer than k samples."""
    if not by_problem or min(map(len, by_problem)) < k:
        return math.nan
    return mean([1 - math.comb(len(s) - sum(s), k) / math.comb(len(s), k) for s in by_problem])


def maj_at_k(by_problem: Sequence[Sequence[tuple[str | None, bool]]]) -> float:
    """How often the most frequent answer of a problem's samples is right; between equally frequent ones the chance decides.

    A sample is (answer, right); None is no answer and has no vote. NaN for no problems.
    """
    return mean([_majority(samples) for samples in by_problem])


def _majority(samples: Sequence[tuple[str | None, bool]]) -> float:
    votes = Counter(answer for answer, _ in samples if answer is not None)
    if not votes:
        return 0.0
    right = dict(samples)
    leading = [answer for answer, count in votes.items() if count == max(votes.values())]
    return mean([float(right[answer]) for answer in leading])


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0..100), linearly interpolated. NaN for no values."""
    return float(np.percentile(values, q)) if values else math.nan


def mean(values: Sequence[float]) -> float:
    """The mean. NaN for no values."""
    return float(np.mean(values)) if values else math.nan


def share(part: float, whole: float) -> float:
    """part / whole, and 0 where there is nothing to share."""
    return part / whole if whole else 0.0
