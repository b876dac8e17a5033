"""Ten log-probabilities to one number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_specreason.method.policy import Policy
from sgl_specreason.method.score import DIGITS, RANGES, Binary, Judgement, Likelihood, Score

LOGPROBS = st.lists(st.floats(-60, -2.4), min_size=10, max_size=10)


@given(LOGPROBS)
def test_a_score_is_a_distribution(logprobs: list[float]) -> None:
    score = Score.from_logprobs(logprobs)
    assert sum(score.probabilities) == pytest.approx(1)
    assert score.label_mass == pytest.approx(sum(map(math.exp, logprobs)))
    assert 0 <= score.expected <= 9
    assert score.probabilities[score.greedy] == max(score.probabilities)


@given(LOGPROBS, st.integers(0, 9))
def test_p_ge_falls_as_the_threshold_rises(logprobs: list[float], threshold: int) -> None:
    score = Score.from_logprobs(logprobs)
    assert score.p_ge(0) == pytest.approx(1)
    assert score.p_ge(threshold) >= score.p_ge(threshold + 0.5)


@given(LOGPROBS, st.sampled_from(["greedy", "expected", "p_ge"]), st.floats(0, 9), st.floats(0, 9))
def test_a_higher_threshold_never_accepts_more(logprobs: list[float], rule: str, a: float, b: float) -> None:
    score = Score.from_logprobs(logprobs)
    low, high = sorted((a, b))
    judged = Judgement(score=score)
    strict = Policy(threshold=high, score_rule=rule).accepts(judged)  # type: ignore[arg-type]
    assert not strict or Policy(threshold=low, score_rule=rule).accepts(judged)  # type: ignore[arg-type]


def test_no_mass_on_digits_is_a_score_without_meaning_and_not_an_error() -> None:
    score = Score.from_logprobs([-math.inf] * 10)
    assert score.label_mass == 0
    assert score.greedy == 0


@given(st.lists(st.sampled_from([-math.inf, -1000.0, -700.0, -5.0, 0.0]), min_size=10, max_size=10))
def test_impossible_digits_leave_a_distribution(logprobs: list[float]) -> None:
    score = Score.from_logprobs(logprobs)
    assert sum(score.probabilities) == pytest.approx(1)
    assert 0 <= score.label_mass <= 1


@pytest.mark.parametrize(("rule", "threshold"), [(rule, RANGES[rule].low) for rule in ("greedy", "expected", "p_ge")])
def test_a_judge_without_mass_on_its_labels_never_accepts(rule: str, threshold: float) -> None:
    """The mean of ten impossible digits would be 4.5, and one at or above 0 certain."""
    nothing = Judgement(score=Score.from_logprobs([-1000.0] * 10), likelihood=Likelihood(logprobs=(-0.1,)))
    assert not Policy(threshold=threshold, score_rule=rule).accepts(nothing)  # type: ignore[arg-type]
    assert Policy(judge="score+likelihood", threshold=-7, score_rule="min").accepts(nothing)
    no_words = Judgement(binary=Binary.from_logprobs([-1000.0, -math.inf]))
    assert not Policy(judge="binary", threshold=0.0, score_rule="p_yes").accepts(no_words)


def test_a_tie_goes_to_the_lower_digit() -> None:
    assert Score.from_logprobs([math.log(0.1)] * len(DIGITS)).greedy == 0


@pytest.mark.parametrize("bad", [[0.0] * 9, [math.nan] * 10])
def test_other_lengths_and_nan_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="ten log-probabilities"):
        Score.from_logprobs(bad)


def test_a_yes_or_no_is_a_share_of_the_two() -> None:
    judged = Judgement(binary=Binary.from_logprobs([math.log(0.6), math.log(0.2)]))
    assert judged.value("p_yes", 0.5) == pytest.approx(0.75)
    assert judged.label_mass == pytest.approx(0.8)
    assert Binary.from_logprobs([-math.inf, -math.inf]) == Binary(p_yes=0.0, label_mass=0.0)


def test_a_likelihood_has_a_mean_a_least_and_a_beginning() -> None:
    found = Likelihood(logprobs=(-1.0, -2.0, -12.0, -1.0))
    judged = Judgement(likelihood=found)
    assert (judged.value("mean", 0), judged.value("min", 0), judged.label_mass) == (-4, -12, None)
    assert [found.likely_tokens(floor) for floor in (-0.5, -1.5, -7, -20)] == [0, 1, 2, 4]


def test_a_rule_needs_what_it_reads() -> None:
    with pytest.raises(ValueError, match="no greedy"):
        Judgement(likelihood=Likelihood(logprobs=())).value("greedy", 7)


def test_every_rule_has_a_range_with_its_default() -> None:
    assert all(span.low <= span.default <= span.high for span in RANGES.values())
