"""What the judge says: its digits, its label mass, how often it is right, what each threshold keeps.

Example: python plots/judge.py runs/demo-specreason-demo-1a2b3c4d -o judge.svg
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from drawing import TOO_FEW, caption, draw, noted, script, written
from labelled import labelled
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgl_specreason.errors import UsageError
from sgl_specreason.judging.folder import is_folder
from sgl_specreason.judging.measured import measured
from sgl_specreason.method.policy import is_alone
from sgl_specreason.method.score import ScoreRule
from sgl_specreason.plan import traces
from sgl_specreason.results import stats
from sgl_specreason.results.calibrate import Drafts, acceptance, aurocs, drafts_of, judged_drafts, signal, with_digits
from sgl_specreason.results.published import drafts as published_drafts
from sgl_specreason.results.summary import Run, outcomes
from sgl_specreason.words import counted

RULES: tuple[ScoreRule, ...] = ("greedy", "expected", "p_ge")
LEAST = 5


def judge(runs: Sequence[Run]) -> Figure:
    """Draws greedy digits, label mass, reliability over the expected digit, and acceptance over the threshold.

    Of all digit judgements of these runs together. Raises UsageError where there are none.
    """
    judging = [run for run in runs if not is_alone(run.method)]
    for run in judging:
        run.read(outcomes, judged_drafts)
    drafts = with_digits(drafts_of(judging))
    if not len(drafts):
        raise UsageError("these runs hold no judgement by digits")
    enough = all(run.summary.n >= stats.FEW for run in judging)
    figure = _drawn(drafts, partial(_reliability, enough=enough))
    caption(figure, judging, counted(len(drafts), "judged draft"), *["bars: 95 % intervals (Wilson)"] * enough)
    return figure


def of_trace(name: str) -> Figure:
    """The same of a published trace, of which nobody knows what was right. Raises UsageError."""
    published = traces.load(name)
    drafts = with_digits(published_drafts(published))
    if not len(drafts):
        raise UsageError(f"{name}: holds no distribution over digits")
    figure = _drawn(drafts, _spread)
    noted(figure, f"{published.about.title}: {published.about.source}", counted(len(drafts), "judged draft"))
    return figure


def _drawn(drafts: Drafts, third: Callable[[Axes, Drafts], None]) -> Figure:
    """All but what stands at the third place."""
    figure, ((digits, mass), (reliability, kept)) = plt.subplots(2, 2, figsize=(6.8, 4.4))
    counts = np.bincount(signal(drafts, "greedy").astype(int), minlength=10)
    digits.bar(range(10), 100 * counts / len(drafts), color="#0072B2")
    digits.set(xlabel="greedy digit", ylabel="drafts, %", xticks=range(10))
    masses = drafts["label_mass"][~np.isnan(drafts["label_mass"])]
    each = np.full(len(masses), 100 / len(drafts))
    mass.hist(masses, bins=np.linspace(0, 1, 21), weights=each, color="#0072B2")
    mass.set(xlabel="label mass (probability on digits)", ylabel="drafts, %", xlim=(0, 1))
    third(reliability, drafts)
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
    return figure


def _spread(axes: Axes, drafts: Drafts) -> None:
    """How the expected digit is spread, where nobody knows what was right."""
    values = signal(drafts, "expected")
    axes.hist(
        values,
        bins=[digit - 0.5 for digit in range(11)],
        weights=np.full(len(values), 100 / len(values)),
        color="#0072B2",
    )
    axes.set(xlabel="expected digit", ylabel="drafts, %", xlim=(-0.6, 9.6), xticks=range(10))


def _reliability(axes: Axes, drafts: Drafts, *, enough: bool) -> None:
    """The share that is right in each unit of the expected digit, where there are enough drafts to say, and `enough` problems."""
    axes.set(xlabel="expected digit", ylabel="right, %", xlim=(-0.3, 9.3), xticks=range(10), ylim=(-3, 103))
    if not enough:
        axes.text(4.5, 50, TOO_FEW, ha="center", va="center", fontsize=7, color="#444444")
        return
    values = signal(drafts, "expected")
    areas = aurocs(drafts, "expected")
    for label, truth, area, colour, mark in (
        ("step right", drafts["step_right"], areas[0], "#0072B2", "o"),
        ("trajectory right", drafts["ended_right"].astype(float), areas[1], "#D55E00", "s"),
    ):
        if np.isnan(truth).all():
            continue
        xs, ys, low, high = [], [], [], []
        for digit in range(10):
            mine = (digit - 0.5 <= values) & (values < digit + 0.5) & ~np.isnan(truth)
            if mine.sum() >= LEAST:
                share = float(truth[mine].mean())
                bounds = _wilson(share, int(mine.sum()))
                xs.append(float(values[mine].mean()))
                ys.append(100 * share)
                low.append(100 * bounds[0])
                high.append(100 * bounds[1])
        axes.vlines(xs, low, high, color=colour, linewidth=0.7, alpha=0.6)
        axes.plot(
            xs, ys, "-", marker=mark, color=colour, label=label if math.isnan(area) else f"{label} (AUROC {area:.3f})"
        )
    axes.legend(loc="best")


def _wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return max(middle - half, 0.0), min(middle + half, 1.0)


@script
def main(runs: tuple[Path, ...], out: Path, force: bool, **settings: Any) -> None:
    """Draws what the judge's digits are worth, from the judgements that the runs recorded, or that a published trace holds.

    A folder of `python -m sgl_specreason.judge` is drawn with what each of its judges is worth.
    """
    if any(is_folder(run) for run in runs):
        if len(runs) > 1:
            raise UsageError("a measurement is drawn by itself")
        written(labelled(measured(runs[0])), out)
        return
    if any(traces.is_name(str(run)) for run in runs):
        if len(runs) > 1:
            raise UsageError("a published trace is drawn by itself")
        written(of_trace(str(runs[0])), out)
        return
    draw(judge, runs, out, force=force, **settings)


if __name__ == "__main__":
    main()
