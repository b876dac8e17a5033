"""Statistics against closed forms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    low, high = stats.bootstrap_ci95(groups)
    assert (low, high) == stats.bootstrap_ci95(groups)
    assert low < stats.accuracy(groups) < high
    assert (high - low) / 2 == pytest.approx(1.96 * stats.clustered_se(groups), rel=0.1)


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
    assert stats.pass_at_k([samples], k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_needs_k_samples_of_every_problem() -> None:
    assert math.isnan(stats.pass_at_k([[True, True], [True]], 2))


def test_the_majority_decides_and_chance_between_equals() -> None:
    assert stats.maj_at_k([[("4", True), ("4", True), ("5", False)]]) == 1.0
    assert stats.maj_at_k([[("4", True), ("5", False)]]) == 0.5
    assert stats.maj_at_k([[(None, False), (None, False), ("4", True)]]) == 1.0
    assert stats.maj_at_k([[(None, False)]]) == 0.0


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
    """300 simulated comparisons of 100 problems x 4 samples: 91 to 98 % of the intervals hold the true difference."""
    monkeypatch.setattr(stats, "BOOTSTRAP_DRAWS", 1000)
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
    assert 0.91 * 300 <= covered <= 0.98 * 300


def test_a_ratio_of_means_is_paired_by_problem() -> None:
    slow = {f"p{number}": [2.0 + number % 3, 3.0] for number in range(60)}
    fast = {problem: [value / 2 for value in values] for problem, values in slow.items()} | {"only here": [99.0]}
    found = stats.ratio_of_means(slow, fast)
    assert found.value == pytest.approx(2)
    assert found.ci95 == pytest.approx((2, 2))
    assert math.isnan(stats.ratio_of_means({}, fast).value)


def test_the_interval_of_a_ratio_holds_the_true_one_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(100):
        hard = rng.gamma(4, 1, 60)
        above = {str(at): [float(x)] for at, x in enumerate(1.5 * hard * rng.gamma(20, 0.05, 60))}
        below = {str(at): [float(x)] for at, x in enumerate(hard * rng.gamma(20, 0.05, 60))}
        low, high = stats.ratio_of_means(above, below).ci95
        held += low <= 1.5 <= high
    assert held >= 87
