"""Ten log-probabilities to one number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_specreason.policy import Policy
from sgl_specreason.score import DIGITS, Score

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
    strict = Policy(threshold=high, score_rule=rule).accepts(score)  # type: ignore[arg-type]
    assert not strict or Policy(threshold=low, score_rule=rule).accepts(score)  # type: ignore[arg-type]


def test_no_mass_on_digits_is_a_score_without_meaning_and_not_an_error() -> None:
    score = Score.from_logprobs([-math.inf] * 10)
    assert score.label_mass == 0
    assert score.greedy == 0


def test_a_tie_goes_to_the_lower_digit() -> None:
    assert Score.from_logprobs([math.log(0.1)] * len(DIGITS)).greedy == 0


@pytest.mark.parametrize("bad", [[0.0] * 9, [math.nan] * 10])
def test_other_lengths_and_nan_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="ten log-probabilities"):
        Score.from_logprobs(bad)
