"""Statistics against closed forms."""

import itertools
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sgl_specreason.results import stats

RUNS = st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=2, max_size=20)


def test_accuracy_weighs_problems_and_not_samples() -> None:
    assert stats.accuracy([[True], [False, False, False]]) == 0.5


@given(st.integers(2, 40), st.integers(0, 40))
def test_the_error_of_single_samples_is_the_binomial_one(n: int, right: int) -> None:
    """With one sample a problem: sqrt(p (1 - p) / (n - 1))."""
    right = min(right, n)
    p = right / n
    outcomes = [[i < right] for i in range(n)]
    assert stats.clustered_se(outcomes) == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))


@given(RUNS)
def test_repeating_every_sample_adds_no_certainty(groups: list[list[bool]]) -> None:
    """The reason for clustering: copies of an answer are not new evidence."""
    assert stats.clustered_se([group * 5 for group in groups]) == pytest.approx(stats.clustered_se(groups))


def test_the_interval_is_repeatable_and_holds_the_accuracy() -> None:
    groups = [[i % 3 == 0] for i in range(60)]
    low, high = stats.accuracy_ci95(groups)
    assert (low, high) == stats.accuracy_ci95(groups)
    assert low < stats.accuracy(groups) < high
    assert (high - low) / 2 == pytest.approx(1.96 * stats.clustered_se(groups), rel=0.1)


@pytest.mark.parametrize(("right", "n"), [(20, 20), (0, 20), (19, 20), (3, 5), (45, 50), (198, 200)])
def test_with_one_sample_a_problem_the_interval_is_the_exact_binomial_one(right: int, n: int) -> None:
    exact = binomtest(right, n).proportion_ci(0.95, "exact")
    found = stats.accuracy_ci95([[i < right] for i in range(n)])
    assert found == pytest.approx((exact.low, exact.high), abs=0.001)


@given(st.integers(2, 300), st.integers(1, 8))
def test_where_all_are_right_the_interval_is_what_so_many_problems_allow(n: int, samples: int) -> None:
    """Issue 15: 20 of 20 read "100.0 ± 0.0". The exact bound; more samples of the same problems do not move it."""
    assert stats.accuracy_ci95([[True] * samples] * n) == pytest.approx((0.025 ** (1 / n), 1), abs=1e-4)


@given(st.integers(stats.FEW, 300))
def test_where_no_problem_differs_the_interval_is_what_so_many_problems_allow(n: int) -> None:
    """Issue 15: 20 of 20 against 20 of 20 read "+0.0 [+0.0, +0.0]"."""
    same = {str(i): [True] for i in range(n)}
    bound = 1 - 0.025 ** (1 / n)
    assert stats.paired(same, same).ci95 == pytest.approx((-bound, bound), abs=1e-4)


@given(RUNS, RUNS)
def test_no_interval_is_a_point_or_leaves_what_can_be(ours: list[list[bool]], theirs: list[list[bool]]) -> None:
    low, high = stats.accuracy_ci95(ours)
    assert 0 <= low < high <= 1
    paired = stats.paired(dict(enumerate(ours)), dict(enumerate(theirs)))  # type: ignore[arg-type]
    if paired.too_few:
        assert all(map(math.isnan, [*paired.ci95, paired.sign_p]))
        return
    assert -1 <= paired.ci95[0] < paired.difference < paired.ci95[1] <= 1 or abs(paired.difference) == 1


def test_one_problem_gives_no_interval_and_few_are_called_so() -> None:
    """Issue 18: one problem read "1.55 [1.55, 1.55]"."""
    one = {"a": [True]}
    assert all(map(math.isnan, stats.accuracy_ci95([[True]])))
    assert all(map(math.isnan, stats.paired(one, one).ci95))
    assert all(map(math.isnan, stats.ratio_of_means({"a": [2.0]}, {"a": [1.0]}).ci95))
    assert all(map(math.isnan, stats.ratio_of_means({}, {}).ci95))
    five, six = ({str(i): [True] for i in range(n)} for n in (5, 6))
    assert stats.paired(five, five).too_few
    assert not stats.paired(six, six).too_few
    assert math.isnan(stats.paired(five, five).sign_p)
    assert stats.paired(six, six).sign_p == 1
    several = [{str(i): [1.0 + i] for i in range(n)} for n in (5, 6)]
    assert [math.isnan(stats.ratio_of_means(each, each).ci95[0]) for each in several] == [True, False]
    assert stats.sign_test(0, stats.FEW - 1) > 0.05 > stats.sign_test(0, stats.FEW)


Values = tuple[float, ...]


def coverage(samples: Sequence[Values], truth: float, *, least: float) -> float:
    """How many of the intervals hold the truth. Most samples near an edge are alike: each is looked at once."""
    interval = cache(lambda values: stats.mean_ci95(values, least=least))
    bounds = [interval(tuple(sorted(values))) for values in samples]
    return float(np.mean([low - 1e-9 <= truth <= high + 1e-9 for low, high in bounds]))


@pytest.mark.parametrize("n", [5, 20, 100])
@pytest.mark.parametrize("accuracy", [0.9, 0.95, 0.98, 0.99])
@pytest.mark.parametrize("alike", [1.0, 0.7, 0.3])
def test_the_interval_covers_the_truth_near_the_edge(
    n: int, accuracy: float, alike: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """250 simulated runs of 4 samples, whose correlation within a problem is `alike` (1: as one sample).

    A percentile bootstrap covers 8 % of 5 problems at 0.98, Wilson's interval 91 % of 10 at 0.99.
    """
    monkeypatch.setattr(stats, "WEIGHTS", 3000)
    rng = np.random.default_rng(11)
    if alike == 1:
        easy = (rng.random((250, n)) < accuracy).astype(float)
    else:
        spread = 1 / alike - 1
        easy = rng.beta(accuracy * spread, (1 - accuracy) * spread, (250, n))
    runs = [tuple(map(float, run)) for run in rng.binomial(4, easy) / 4]
    assert coverage(runs, accuracy, least=0) >= 0.93


@pytest.mark.parametrize("n", [5, 20, 100])
@pytest.mark.parametrize(("better", "worse"), [(0.01, 0.0), (0.01, 0.01), (0.03, 0.01), (0.05, 0.05), (0.2, 0.1)])
def test_the_interval_of_a_small_difference_covers_it(
    n: int, better: float, worse: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """250 simulated comparisons in which few problems differ. A percentile bootstrap covers 4 to 98 % of these."""
    monkeypatch.setattr(stats, "WEIGHTS", 3000)
    rng = np.random.default_rng(5)
    drawn = rng.choice([1.0, -1.0, 0.0], p=[better, worse, 1 - better - worse], size=(250, n))
    assert coverage([tuple(map(float, run)) for run in drawn], better - worse, least=-1) >= 0.93


def test_nothing_is_not_a_number() -> None:
    assert math.isnan(stats.accuracy([]))
    assert math.isnan(stats.clustered_se([[True]]))
    assert math.isnan(stats.percentile([], 95))
    assert stats.share(0, 0) == 0


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int, data: st.DataObject) -> None:
    """The closed form against counting every subset of k samples."""
    right = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    samples = [i < right for i in range(n)]
    subsets = list(itertools.combinations(samples, k))
    assert stats.pass_at_k([samples], k) == [pytest.approx(sum(map(any, subsets)) / len(subsets))]


def test_pass_and_maj_at_k_need_k_samples_of_every_problem() -> None:
    with pytest.raises(ValueError, match="2 samples of each problem are wanted, one has 1"):
        stats.pass_at_k([[True, True], [True]], 2)
    with pytest.raises(ValueError, match="one has 1"):
        stats.maj_at_k([[("4", True)]], 2)


def test_the_majority_decides_and_chance_between_equals() -> None:
    assert stats.maj_at_k([[("4", True), ("4", True), ("5", False)], [("4", True), ("5", False), ("6", False)]], 3) == [
        1.0,
        pytest.approx(1 / 3),
    ]
    assert stats.maj_at_k([[("4", True), ("5", False)]], 2) == [0.5]
    assert stats.maj_at_k([[(None, False), (None, False), ("4", True)]], 3) == [1.0]
    assert stats.maj_at_k([[(None, False)]], 1) == [0.0]


def test_at_k_only_k_samples_vote() -> None:
    """Issue 15: it was called maj@2 where one problem had two samples, and all four of another voted."""
    four = [("5", False), ("4", True), ("4", True), ("4", True)]
    assert stats.maj_at_k([four, [("1", True), ("1", True)]], 2) == [0.5, 1.0]


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_sign_test_is_the_binomial_one(better: int, worse: int) -> None:
    """Two-sided, and symmetric; checked against summing every outcome that is at most as likely."""
    n = better + worse
    weights = [math.comb(n, i) for i in range(n + 1)]
    expected = sum(weight for weight in weights if weight <= weights[better]) / 2**n
    assert stats.sign_test(better, worse) == pytest.approx(expected)
    assert stats.sign_test(better, worse) == stats.sign_test(worse, better)


def test_pairing_uses_only_shared_problems() -> None:
    ours = {"a": [True], "b": [False, True], "c": [True]}
    theirs = {"a": [False], "b": [True, True], "d": [False]}
    pairing = stats.paired(ours, theirs)
    assert (pairing.n, pairing.difference, pairing.better, pairing.worse) == (2, 0.25, 1, 1)


def test_pairing_is_tighter_than_two_separate_errors() -> None:
    """The reason for pairing: on problems that both find hard or easy, the difference is known better than either accuracy."""
    rng = np.random.default_rng(0)
    both = rng.random(200) < 0.5
    ours = {str(i): [bool(b)] for i, b in enumerate(both)}
    theirs = {str(i): [bool(b) if i >= 8 else not b] for i, b in enumerate(both)}
    low, high = stats.paired(ours, theirs).ci95
    separate = 2 * 1.96 * math.hypot(*(stats.clustered_se(list(g.values())) for g in (ours, theirs)))
    assert high - low < separate / 2


def test_the_paired_interval_covers_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 simulated comparisons of 100 problems x 4 samples: 93 to 99 % of the intervals hold the true difference."""
    monkeypatch.setattr(stats, "WEIGHTS", 3000)
    rng = np.random.default_rng(7)
    many = rng.beta(2, 2, size=1_000_000)
    truth = (np.clip(many + rng.normal(0.05, 0.1, size=len(many)), 0, 1) - many).mean()
    covered = 0
    for _ in range(300):
        difficulty = rng.beta(2, 2, size=100)
        gain = rng.normal(0.05, 0.1, size=100)
        better = np.clip(difficulty + gain, 0, 1)
        ours = {str(i): list(rng.random(4) < p) for i, p in enumerate(better)}
        theirs = {str(i): list(rng.random(4) < p) for i, p in enumerate(difficulty)}
        low, high = stats.paired(ours, theirs).ci95
        covered += low <= truth <= high
    assert 0.93 * 300 <= covered <= 0.99 * 300


def test_a_ratio_of_means_is_paired_by_problem() -> None:
    slow = {f"p{number}": [2.0 + number % 3, 3.0] for number in range(60)}
    fast = {problem: [value / 2 for value in values] for problem, values in slow.items()} | {"only here": [99.0]}
    found = stats.ratio_of_means(slow, fast)
    assert found.value == pytest.approx(2)
    assert found.ci95 == pytest.approx((2, 2))
    assert math.isnan(stats.ratio_of_means({}, fast).value)


@pytest.mark.parametrize("n", [2, 5, 20, 60])
def test_the_interval_of_a_ratio_holds_the_true_one_as_often_as_it_says(n: int) -> None:
    """400 simulated comparisons; a percentile bootstrap holds it in 52 % of those of two problems."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        hard = rng.gamma(4, 1, n)
        above = {str(at): [float(x)] for at, x in enumerate(1.5 * hard * rng.gamma(20, 0.05, n))}
        below = {str(at): [float(x)] for at, x in enumerate(hard * rng.gamma(20, 0.05, n))}
        low, high = stats.ratio_of_means(above, below).ci95
        held += math.isnan(low) or low <= 1.5 <= high
    assert held >= 0.93 * 400


def test_problems_that_are_too_unlike_give_no_interval_of_a_ratio() -> None:
    """Where the mean below may as well be 0, every large ratio would do."""
    found = stats.ratio_of_means({"a": [1.0], "b": [9.0]}, {"a": [0.1], "b": [9.0]})
    assert found.value == pytest.approx(10 / 9.1)
    assert all(map(math.isnan, found.ci95))


SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)).map(lambda at: (at[0], at[0] + at[1])), max_size=12)


@given(SPANS)
def test_time_is_busy_where_anything_runs(spans: list[tuple[int, int]]) -> None:
    """Against counting whole seconds one by one."""
    seconds = [sum(begin <= second < end for begin, end in spans) for second in range(41)]
    assert stats.busy_s(spans) == sum(map(bool, seconds))
    assert stats.most_at_once([span for span in spans if span[0] < span[1]]) == max(seconds)


def test_empty_places_are_not_time_that_was_used() -> None:
    """Issue 15: 16 trajectories side by side at concurrency 64 had the sum of their seconds over 64 for their time."""
    spans = [(100.0, 110.0)] * 15 + [(100.0, 130.0), (200.0, 201.0)]
    assert stats.busy_s(spans) == 31
    assert stats.most_at_once(spans) == 16
    assert (stats.busy_s([]), stats.most_at_once([])) == (0, 0)
    assert stats.most_at_once([(0.0, 1.0), (1.0, 2.0)]) == 1
