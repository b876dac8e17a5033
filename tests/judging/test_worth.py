"""What judges' numbers are worth: areas with intervals by problem, paired differences, calibration, what thresholds keep."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_specreason.judging import worth
from sgl_specreason.judging.worth import Steps
from sgl_specreason.results.calibrate import auroc


def made(*problems: str) -> Steps:
    """A problem for each word: "ggb" has two right steps and then a wrong one."""
    return Steps(
        problem=np.array([number for number, word in enumerate(problems) for _ in word], dtype=np.int64),
        place=np.array([place for word in problems for place in range(len(word))], dtype=np.int64),
        right=np.array([letter == "g" for word in problems for letter in word], dtype=np.bool_),
    )


def drawn(rng: np.random.Generator, problems: int, *, apart: float, own: float) -> tuple[Steps, np.ndarray]:
    """Problems that end with a wrong step or with none; values are `apart`, and each problem has its own level."""
    words = ["g" * int(rng.integers(1, 6)) + "b" * int(rng.integers(0, 2)) for _ in range(problems)]
    steps = made(*words)
    level = own * rng.standard_normal(problems)[steps.problem]
    return steps, rng.standard_normal(len(steps.right)) + level + apart * steps.right


WORDS = st.lists(st.text("gb", min_size=1, max_size=4), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(WORDS, st.randoms(use_true_random=False))
def test_the_concordance_of_all_pairs_is_the_area(words: list[str], rng: object) -> None:
    steps = made(*words)
    values = np.array([float(rng.randrange(4)) for _ in steps.right])  # type: ignore[attr-defined]
    expected = auroc(values[steps.right], values[~steps.right])
    pairs = worth.concordance(steps, values)
    if steps.right.all() or not steps.right.any():
        assert pairs.sum() == 0
    else:
        assert pairs.sum() / (steps.right.sum() * (~steps.right).sum()) == pytest.approx(expected)


def test_an_area_is_the_usual_one_with_an_interval_around_it() -> None:
    steps, values = drawn(np.random.default_rng(1), 100, apart=1.0, own=0.5)
    area = worth.area(steps, values)
    assert area.value == pytest.approx(auroc(values[steps.right], values[~steps.right]))
    assert area.ci95[0] < area.value < area.ci95[1]


def test_a_perfect_judge_of_few_problems_has_an_interval() -> None:
    """A bootstrap of problems would say 1.000 [1.000, 1.000]."""
    steps = made(*["ggb"] * 20)
    area = worth.area(steps, steps.right.astype(float))
    assert area.value == area.ci95[1] == 1
    assert 0.6 < area.ci95[0] < 0.95


def test_too_few_say_nothing() -> None:
    steps = made(*["gb"] * 5)
    assert math.isnan(worth.area(steps, steps.right.astype(float)).value)
    assert made(*["g"] * 20, *["gb"] * 5).too_few
    assert not made(*["gb"] * 6).too_few


@pytest.mark.parametrize(("apart", "own"), [(0.0, 0.0), (0.0, 2.0), (1.0, 1.0)])
def test_the_interval_covers_what_is_true(apart: float, own: float) -> None:
    """95 % of intervals should; steps of a problem are alike, which an interval by steps would not know."""
    rng = np.random.default_rng(7)
    truth = math.nan
    big, values = drawn(rng, 4000, apart=apart, own=own)
    truth = auroc(values[big.right], values[~big.right])
    covered = 0
    for _ in range(60):
        steps, values = drawn(rng, 60, apart=apart, own=own)
        low, high = worth.area(steps, values).ci95
        covered += low <= truth <= high
    assert covered >= 54


def test_differences_are_paired() -> None:
    """Two judges that see the same noise differ by little that is sure."""
    steps, noise = drawn(np.random.default_rng(3), 300, apart=0.5, own=1.0)
    better = noise + 0.5 * steps.right
    found = worth.difference(steps, better, noise)
    own = worth.area(steps, noise).ci95
    assert found.value == pytest.approx(worth.area(steps, better).value - worth.area(steps, noise).value)
    assert 0 < found.ci95[0] < found.value < found.ci95[1]
    assert found.ci95[1] - found.ci95[0] < own[1] - own[0]
    same = worth.difference(steps, noise, noise)
    assert same.value == 0
    assert same.ci95[0] < 0 < same.ci95[1]


def test_average_precision_finds_wrong_steps_by_their_low_values() -> None:
    steps = made("ggggb")
    assert worth.average_precision(steps, np.array([5.0, 4, 3, 2, 1])) == 1
    assert worth.average_precision(steps, np.array([1.0, 2, 3, 4, 5])) == pytest.approx(0.2)
    assert worth.average_precision(steps, np.ones(5)) == pytest.approx(0.2)
    assert math.isnan(worth.average_precision(made("ggg"), np.ones(3)))


def test_probabilities_are_compared_with_what_was_right() -> None:
    steps = made("gggb")
    assert worth.brier(steps, np.array([1.0, 1, 1, 0])) == 0
    assert worth.brier(steps, np.full(4, 0.5)) == 0.25
    (low, high) = worth.reliability(steps, np.array([0.95, 1.0, 1.0, 0.05]))
    assert (low.count, low.right, high.count, high.right) == (1, 0, 3, 1)


def test_a_threshold_keeps_and_the_first_refused_step_is_the_prediction() -> None:
    """ProcessBench: a wrong solution counts where exactly its first wrong step is found, a right one where nothing is refused."""
    steps = made("ggb", "ggb", "ggb", "ggg", "gg")
    values = np.array([9.0, 9, 1, 9, 1, 1, 9, 9, 9, 9, 9, 9, 9, 2])
    found = worth.cut(steps, values, 5)
    assert (found.right_kept, found.wrong_kept) == (pytest.approx(9 / 11), pytest.approx(1 / 3))
    assert (found.found, found.spared) == (pytest.approx(1 / 3), 0.5)
    assert found.f1 == pytest.approx(0.4)
    best = worth.best_cut(steps, values)
    assert best.f1 >= found.f1
    assert worth.cut(steps, values, 2).f1 == pytest.approx(0.5)
    assert worth.cut(steps, values, 0).f1 == 0


def test_without_wrong_solutions_there_is_no_f1() -> None:
    assert math.isnan(worth.best_cut(made("gg", "g"), np.array([1.0, 2, 3])).f1)
