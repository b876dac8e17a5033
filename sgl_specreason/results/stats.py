"""Owns the statistics of a run (pure functions). Knows nothing of files or engines."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WEIGHTS = 400_000  # random numbers for an interval: 0.03 s
SEED = 2504
FEW = 6
"""Fewer problems than this are too few to compare anything: if all of five go one way, the exact sign test still says 0.06."""

Interval = tuple[float, float]
NO_INTERVAL: Interval = (math.nan, math.nan)


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


def accuracy_ci95(by_problem: Sequence[Sequence[bool]]) -> Interval:
    """The 95 % interval of the accuracy. NaN under 2 problems."""
    return mean_ci95([float(np.mean(samples)) for samples in by_problem])


def mean_ci95(values: Sequence[float], *, least: float = 0.0, most: float = 1.0) -> Interval:
    """The 95 % interval of a mean, from one value per problem, none below `least` or above `most`. NaN under 2 values.

    Gaffke's bounds (2005; arXiv 1905.06208, 2106.03163): the values weighed at random, as in a Bayesian bootstrap, beside one
    more problem that nobody has seen and that is as bad, or as good, as can be. Of zeros and ones this is the exact interval of
    Clopper and Pearson (to 0.1 %); where all values agree it says what so many problems allow. That it covers as much in
    between is not proven: tests simulate it. A fixed seed makes it repeatable.
    """
    if len(values) < 2:
        return NO_INTERVAL
    distinct, counts = np.unique(np.round(values, 12), return_counts=True)
    draws = WEIGHTS // len(distinct) + 1
    # those of equal values come as their sum
    weights = np.random.default_rng(SEED).standard_gamma(counts, size=(draws, len(distinct)))
    seen = weights @ distinct / weights.sum(axis=1)
    # at even quantiles, so that values which are all equal give no noise
    unseen = 1 - ((np.arange(draws) + 0.5) / draws) ** (1 / len(values))
    tails = (least, 0.025), (most, 0.975)
    low, high = (np.quantile(seen + unseen * (edge - seen), tail) for edge, tail in tails)
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A method against another on the same problems: the difference of accuracies, its interval, and an exact sign test.

    `better` and `worse` count the problems on which its mean over samples is higher and lower. Interval and p are NaN where there
    are too few problems.
    """

    n: int
    difference: float
    ci95: Interval
    better: int
    worse: int
    sign_p: float

    @property
    def too_few(self) -> bool:
        """Whether so few problems can say nothing."""
        return self.n < FEW


def paired(ours: Mapping[str, Sequence[bool]], theirs: Mapping[str, Sequence[bool]]) -> Paired:
    """The difference ours - theirs over the problems that both have, by problem id."""
    shared = sorted(ours.keys() & theirs.keys())
    differences = [float(np.mean(ours[problem]) - np.mean(theirs[problem])) for problem in shared]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Paired(
        n=len(shared),
        difference=mean(differences),
        ci95=mean_ci95(differences, least=-1) if len(shared) >= FEW else NO_INTERVAL,
        better=better,
        worse=worse,
        sign_p=sign_test(better, worse) if len(shared) >= FEW else math.nan,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio of means with its 95 % interval, which is NaN where the problems are too few or too unlike to give one."""

    n: int
    value: float
    ci95: Interval

    @property
    def too_few(self) -> bool:
        """Whether so few problems can say nothing."""
        return self.n < FEW


def ratio_of_means(above: Mapping[str, Sequence[float]], below: Mapping[str, Sequence[float]]) -> Ratio:
    """The mean of `above` over the mean of `below`, by problem over those that both have. NaN for none."""
    shared = sorted(above.keys() & below.keys())
    if not shared:
        return Ratio(n=0, value=math.nan, ci95=NO_INTERVAL)
    tops, bottoms = ([float(np.mean(side[problem])) for problem in shared] for side in (above, below))
    return Ratio(n=len(shared), value=mean(tops) / mean(bottoms), ci95=_fieller(tops, bottoms))


def _fieller(tops: Sequence[float], bottoms: Sequence[float]) -> Interval:
    """Every ratio r that a paired t-test of "the mean of top - r * bottom is 0" does not reject at 5 % (Fieller 1954).

    Latencies have no bounds that the unseen could be set to. NaN where every large r would do.
    """
    count = len(tops)
    if count < FEW:
        return NO_INTERVAL
    from scipy.special import stdtrit  # half a second that other numbers do not need

    top, bottom = mean(tops), mean(bottoms)
    (top2, both), (_, bottom2) = np.cov(tops, bottoms) / count * stdtrit(count - 1, 0.975) ** 2
    a, b, c = bottom**2 - bottom2, top * bottom - both, top**2 - top2
    if a <= 0:
        return NO_INTERVAL
    half = math.sqrt(max(b**2 - a * c, 0.0))
    return max(float(b - half) / a, 0.0), float(b + half) / a


def sign_test(better: int, worse: int) -> float:
    """The two-sided exact p-value that as uneven a split comes from a fair coin; ties are not counted. 1 for no pairs."""
    count = better + worse
    tail = sum(math.comb(count, k) for k in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**count))


def pass_at_k(by_problem: Sequence[Sequence[bool]], k: int) -> list[float]:
    """Of each problem, the unbiased estimate of "one of k samples is right" (arXiv 2107.03374).

    Raises ValueError if a problem has fewer than k samples.
    """
    _check_samples(by_problem, k)
    return [1 - math.comb(len(s) - sum(s), k) / math.comb(len(s), k) for s in by_problem]


def maj_at_k(by_problem: Sequence[Sequence[tuple[str | None, bool]]], k: int) -> list[float]:
    """Of each problem, how likely the most frequent answer of its first k samples is right; between equally frequent ones the
    chance decides.

    A sample is (answer, right); None is no answer and has no vote. Raises ValueError if a problem has fewer than k samples.
    """
    _check_samples(by_problem, k)
    return [_majority(samples[:k]) for samples in by_problem]


def _check_samples(by_problem: Sequence[Sequence[object]], k: int) -> None:
    fewest = min(map(len, by_problem), default=k)
    if fewest < k:
        raise ValueError(f"{k} samples of each problem are wanted, one has {fewest}")


def _majority(samples: Sequence[tuple[str | None, bool]]) -> float:
    votes = Counter(answer for answer, _ in samples if answer is not None)
    if not votes:
        return 0.0
    right = dict(samples)
    leading = [answer for answer, count in votes.items() if count == max(votes.values())]
    return mean([float(right[answer]) for answer in leading])


def busy_s(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of these (begin, end) lasted: the length of their union."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(end - max(begin, until), 0.0)
        until = max(until, end)
    return total


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """How many of these (begin, end) lasted at the same time, at most; one that begins when another ends comes after it."""
    changes = sorted(change for begin, end in spans for change in ((begin, 1), (end, -1)))
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0..100), linearly interpolated. NaN for no values."""
    return float(np.percentile(values, q)) if values else math.nan


def mean(values: Sequence[float]) -> float:
    """The mean. NaN for no values."""
    return float(np.mean(values)) if values else math.nan


def share(part: float, whole: float) -> float:
    """part / whole, and 0 where there is nothing to share."""
    return part / whole if whole else 0.0
