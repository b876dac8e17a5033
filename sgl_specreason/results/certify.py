"""Owns which thresholds keep a stated risk against base, by tests whose guarantee holds for any number of problems."""

import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sgl_specreason.results import stats
from sgl_specreason.results.numbers import by_problem
from sgl_specreason.results.summary import Run

RISK, CONFIDENCE = 0.01, 0.95
"""What is asked for where nobody says: at most one point below base."""


def risk_p_value(losses: Sequence[float], risk: float, *, confidence: float) -> float:
    """A p-value against "the mean loss is above `risk`", for losses from -1 to 1 in an order that does not depend on them.

    Valid for any number of losses and any distribution: the betting supermartingale of Waudby-Smith and Ramdas (arXiv
    2010.09686), as Learn then Test (arXiv 2110.01052) uses it. `confidence` only tunes the bets.
    """
    bound, count = (risk + 1) / 2, max(len(losses), 1)
    largest_bet = 0.9 / (1 - bound)
    wealth = best = 1.0
    total, squares = 0.5, 0.25
    for number, loss in enumerate(losses, 1):
        bet = min(largest_bet, math.sqrt(2 * math.log(1 / (1 - confidence)) / (count * squares / number)))
        value = (loss + 1) / 2
        wealth *= 1 + bet * (bound - value)
        best = max(best, wealth)
        total += value
        squares += (value - total / (number + 1)) ** 2
    return 1 / best


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A threshold with what it cost against base: the mean loss, 0..1, and the p-value of its being above the risk."""

    threshold: float
    acceptance: float
    loss: float
    p_value: float
    certified: bool


def certify(runs: Sequence[tuple[Run, Run]], *, risk: float, confidence: float) -> list[Tested]:
    """Thresholds from the strictest on, each run beside its base; certified until the first one fails.

    Testing in an order that was fixed before keeps the chance of any false certificate at 1 - `confidence` (fixed sequence
    testing, arXiv 2110.01052, section 3). For several such groups see `confidence_of_each`.
    """
    found, still = [], True
    for run, base in sorted(runs, key=lambda pair: -pair[0].policy.strictness):
        ours, theirs = by_problem(run.outcomes), by_problem(base.outcomes)
        shared = sorted(ours.keys() & theirs.keys(), key=lambda problem: hashlib.sha256(problem.encode()).digest())
        losses = [float(np.mean(theirs[problem]) - np.mean(ours[problem])) for problem in shared]
        p_value = risk_p_value(losses, risk, confidence=confidence)
        still = still and p_value <= 1 - confidence
        found.append(
            Tested(
                threshold=run.policy.level,
                acceptance=run.summary.acceptance,
                loss=stats.mean(losses),
                p_value=p_value,
                certified=still,
            )
        )
    return found


def problems_needed(risk: float, *, confidence: float) -> int:
    """How many problems a threshold that never loses needs to be certified."""

    def enough(count: int) -> bool:
        return risk_p_value([0.0] * count, risk, confidence=confidence) <= 1 - confidence

    most = 1
    while not enough(most):
        most *= 2
    return bisect_left(range(most), True, lo=most // 2, key=enough)


def least_risk(count: int, *, confidence: float) -> float:
    """The least risk, in steps of a tenth of a point, at which so many problems can certify a threshold that never loses.

    NaN where they can at none.
    """

    def enough(tenths: int) -> bool:
        return risk_p_value([0.0] * count, tenths / 1000, confidence=confidence) <= 1 - confidence

    tenths = bisect_left(range(1000), True, lo=1, key=enough)
    return tenths / 1000 if tenths < 1000 else math.nan


def points(risk: float) -> str:
    """A risk in words."""
    return "1 point" if risk == 0.01 else f"{100 * risk:.3g} points"


def said_before(count: int, *, risk: float, confidence: float, groups: int = 1) -> str:
    """What so many problems can certify of a sweep that has not run yet, of so many judges, in words."""
    each = confidence_of_each(confidence, groups)
    needed, least = problems_needed(risk, confidence=each), least_risk(count, confidence=each)
    words = (
        f"a threshold that is at most {points(risk)} below base with {100 * confidence:g} % confidence (report --calibrate) "
        f"takes {needed} problems, even where nothing is lost; these are {count}"
    )
    if needed <= count:
        return words
    if math.isnan(least):
        return f"{words}: too few to certify anything"
    return f"{words}, which can show {points(least)} at best (--risk {100 * least:.3g})"


def confidence_of_each(confidence: float, groups: int) -> float:
    """How sure each of several groups of thresholds must be, for all their certificates to hold at once (Bonferroni)."""
    return 1 - (1 - confidence) / max(groups, 1)
