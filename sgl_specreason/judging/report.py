"""Owns the numbers of a measurement: all that its summary holds, thresholds and costs. Knows no engines and no tables."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sgl_specreason.judging import worth
from sgl_specreason.judging.folder import Answer
from sgl_specreason.judging.measured import Measured, Signal, mean
from sgl_specreason.judging.sentences import differences, sentences
from sgl_specreason.judging.worth import Cut
from sgl_specreason.method.score import RANGES
from sgl_specreason.results.calibrate import entropy_bits


def cuts(found: Measured, signal: Signal) -> list[Cut]:
    """What each threshold keeps: digits, tenths of a probability, or log-probabilities that keep tenths of the steps."""
    if signal.rule in ("greedy", "expected"):
        levels: Sequence[float] = range(10)
    elif RANGES[signal.rule].low < 0:
        levels = np.unique(np.quantile(signal.values, np.linspace(0, 0.9, 10))).tolist()
    else:
        levels = [level / 10 for level in range(1, 10)]
    return [worth.cut(found.steps, signal.values, float(level)) for level in levels]


def digits_used(said: Sequence[Answer]) -> tuple[list[float], float, float]:
    """Of a judge's greedy digits: the share of each; their entropy; and the mean entropy of one answer, in bits."""
    digits = np.array([one.digits for one in said if one.digits], dtype=float)
    if not len(digits):
        return [], math.nan, math.nan
    shares = np.bincount(digits.argmax(axis=1), minlength=10) / len(digits)
    return shares.tolist(), float(entropy_bits(shares)), float(np.mean(entropy_bits(digits)))


def summary(found: Measured) -> dict[str, Any]:
    """summary.json: all of it in numbers."""
    rows = {}
    for signal in found.signals:
        stated, best = (
            worth.cut(found.steps, signal.values, signal.cut),
            worth.best_cut(found.steps, signal.values),
        )
        rows[signal.name] = {
            "judge": signal.judge,
            "rule": signal.rule,
            "auroc": found.areas[signal.name].value,
            "auroc_ci95": found.areas[signal.name].ci95,
            "average_precision_of_wrong": worth.average_precision(found.steps, signal.values),
            "brier": math.nan if signal.probabilities is None else worth.brier(found.steps, signal.probabilities),
            "reliability": []
            if signal.probabilities is None
            else [asdict(one) for one in worth.reliability(found.steps, signal.probabilities)],
            "stated": asdict(stated) | {"threshold": signal.threshold, "f1": stated.f1},
            "best": asdict(best) | {"f1": best.f1},
            "thresholds": [asdict(one) | {"f1": one.f1} for one in cuts(found, signal)],
        }
    judges = {}
    for name, said in found.answers.items():
        shares, spread, own = digits_used(said)
        masses = [one.label_mass for one in said if one.label_mass is not None]
        judges[name] = {
            "label_mass_mean": mean(masses),
            "digits": shares,
            "digits_entropy_bits": spread,
            "answer_entropy_bits": own,
            **asdict(found.costs(name)),
        }
    return {
        "bench": found.config.settings.bench,
        "pair": found.config.settings.pair,
        "problems": found.steps.problems,
        "steps": len(found.steps.right),
        "wrong_share": float(np.mean(~found.steps.right)) if len(found.steps.right) else math.nan,
        "partial": found.partial,
        "cached_share": found.cached_share,
        "signals": rows,
        "judges": judges,
        "differences": [asdict(one) for one in differences(found)],
        "sentences": list(sentences(found)),
    }
