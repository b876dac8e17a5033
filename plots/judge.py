"""What the judge says: its digits, its label mass, how often it is right, what each threshold keeps.

Example: python plots/judge.py runs/demo-specreason-demo-1a2b3c4d -o judge.svg
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from drawing import caption, draw, script
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import is_alone
from sgl_specreason.method.score import ScoreRule
from sgl_specreason.results.calibrate import Judged, acceptance, auroc, judged_drafts
from sgl_specreason.results.summary import Run

RULES: tuple[ScoreRule, ...] = ("greedy", "expected", "p_ge")
LEAST = 5


def judge(runs: Sequence[Run]) -> Figure:
    """Draws greedy digits, label mass, reliability over the expected digit, and acceptance over the threshold.

    Of all digit judgements of these runs together. Raises UsageError where there are none.
    """
    judging = [run for run in runs if not is_alone(run.method)]
    drafts = [draft for run in judging for draft in judged_drafts(run) if draft.said.digits]
    if not drafts:
        raise UsageError("these runs hold no judgement by digits")
    figure, ((digits, mass), (reliability, kept)) = plt.subplots(2, 2, figsize=(6.8, 4.4))
    counts = Counter(int(draft.signal("greedy") or 0) for draft in drafts)
    digits.bar(range(10), [100 * counts[digit] / len(drafts) for digit in range(10)], color="#0072B2")
    digits.set(xlabel="greedy digit", ylabel="drafts, %", xticks=range(10))
    masses = [draft.said.label_mass for draft in drafts if draft.said.label_mass is not None]
    each = [100 / len(drafts)] * len(masses)
    mass.hist(masses, bins=np.linspace(0, 1, 21), weights=each, color="#0072B2")
    mass.set(xlabel="label mass (probability on digits)", ylabel="drafts, %", xlim=(0, 1))
    _reliability(reliability, drafts)
    styles: tuple[dict[str, Any], ...] = (
        {"linewidth": 3, "color": "#56B4E9"},
        {"linestyle": "--", "color": "#D55E00"},
        {"linestyle": ":", "color": "#000000"},
    )
    for rule, style in zip(RULES, styles, strict=True):
        shares = [100 * acceptance(drafts, rule, threshold)[0] for threshold in range(10)]
        kept.plot(range(10), shares, label=rule, **style)
    kept.set(xlabel="threshold", ylabel="drafts kept, %", xticks=range(10), ylim=(-3, 103))
    kept.legend(loc="lower left")
    caption(figure, judging, f"{len(drafts)} judged drafts", "bars: 95 % intervals (Wilson)")
    return figure


def _reliability(axes: Axes, drafts: list[Judged]) -> None:
    """The share that is right in each unit of the expected digit, where there are enough drafts to say."""
    known = any(draft.step_right is not None for draft in drafts)
    witnesses: tuple[tuple[str, Callable[[Judged], bool | None], str, str], ...] = (
        ("step right", lambda draft: draft.step_right, "#0072B2", "o"),
        ("trajectory right", lambda draft: draft.ended_right, "#D55E00", "s"),
    )
    for label, truth, colour, mark in witnesses:
        if label == "step right" and not known:
            continue
        values = [(draft.signal("expected") or 0.0, bool(truth(draft))) for draft in drafts]
        area = auroc([value for value, right in values if right], [value for value, right in values if not right])
        xs, ys, low, high = [], [], [], []
        for digit in range(10):
            mine = [(value, right) for value, right in values if digit - 0.5 <= value < digit + 0.5]
            if len(mine) >= LEAST:
                share = sum(right for _, right in mine) / len(mine)
                bounds = _wilson(share, len(mine))
                xs.append(float(np.mean([value for value, _ in mine])))
                ys.append(100 * share)
                low.append(100 * bounds[0])
                high.append(100 * bounds[1])
        axes.vlines(xs, low, high, color=colour, linewidth=0.7, alpha=0.6)
        axes.plot(
            xs, ys, "-", marker=mark, color=colour, label=label if math.isnan(area) else f"{label} (AUROC {area:.3f})"
        )
    axes.set(xlabel="expected digit", ylabel="right, %", xlim=(-0.3, 9.3), xticks=range(10), ylim=(-3, 103))
    axes.legend(loc="best")


def _wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return max(middle - half, 0.0), min(middle + half, 1.0)


@script
def main(runs: tuple[Path, ...], out: Path, force: bool, **settings: Any) -> None:
    """Draws what the judge's digits are worth, from the judgements that the runs recorded."""
    draw(judge, runs, out, force=force, **settings)


if __name__ == "__main__":
    main()
