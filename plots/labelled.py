"""What judges are worth on labelled steps: what plots/judge.py draws of a folder of `python -m sgl_specreason.judge`."""

import math
from itertools import cycle

import numpy as np
from drawing import noted
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgl_specreason.judging import worth
from sgl_specreason.judging.measured import Measured, Signal
from sgl_specreason.judging.report import digits_used
from sgl_specreason.words import counted

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#666666")
LEAST = 5


def labelled(found: Measured) -> Figure:
    """Draws each signal's AUROC with its interval, what thresholds keep of right and of wrong steps, reliability, and digits."""
    height = max(5.0, 2.8 + 0.2 * len(found.signals))
    figure, ((areas, kept), (reliability, digits)) = plt.subplots(2, 2, figsize=(7.4, height))
    colours = dict(zip(found.answers, cycle(COLOURS), strict=False))
    _areas(areas, found, colours)
    best = _best(found)
    _kept(kept, found, best, colours)
    _reliability(reliability, found, colours)
    _digits(digits, found, colours)
    settings, steps = found.config.settings, found.steps
    wrong = 100 * float(np.mean(~steps.right)) if len(steps.right) else math.nan
    models = ", ".join(f"{role} {model}" for role, model in settings.models.items())
    noted(
        figure,
        f"{settings.bench}, {counted(steps.problems, 'problem')}",
        f"{counted(len(steps.right), 'labelled step')}, {wrong:.0f} % wrong",
        f"pair {settings.pair}: {models}",
        f"GPU {found.config.gpu or 'unknown'}, sglang {found.config.versions.get('sglang', 'unknown')}",
        "bars: 95 % intervals by problem",
        *["partial"] * found.partial,
    )
    return figure


def _best(found: Measured) -> list[Signal]:
    """The best signal of each judge."""
    chosen = []
    for name in found.answers:
        own = [signal for signal in found.signals if signal.judge == name]
        chosen.append(max(own, key=lambda signal: np.nan_to_num(found.areas[signal.name].value)))
    return chosen


def _areas(axes: Axes, found: Measured, colours: dict[str, str]) -> None:
    for place, signal in enumerate(reversed(found.signals)):
        area = found.areas[signal.name]
        axes.plot(area.value, place, "o", color=colours[signal.judge])
        axes.hlines(place, *area.ci95, color=colours[signal.judge])
    axes.axvline(0.5, color="#999999", linewidth=0.8, linestyle="--")
    names = [signal.name for signal in reversed(found.signals)]
    axes.set(yticks=range(len(names)), xlabel="AUROC (0.5: chance)", xlim=(-0.02, 1.02))
    axes.set_yticklabels(names, fontsize=7)


def _kept(axes: Axes, found: Measured, best: list[Signal], colours: dict[str, str]) -> None:
    for signal in best:
        levels = [*np.unique(signal.values)[::-1].tolist()]
        cuts = [worth.cut(found.steps, signal.values, level) for level in levels[:: max(1, len(levels) // 100)]]
        xs, ys = (
            [0.0, *(100 * one.wrong_kept for one in cuts), 100.0],
            [0.0, *(100 * one.right_kept for one in cuts), 100.0],
        )
        axes.plot(xs, ys, color=colours[signal.judge], label=signal.name)
        stated = worth.cut(found.steps, signal.values, signal.cut)
        axes.plot(100 * stated.wrong_kept, 100 * stated.right_kept, "o", color=colours[signal.judge])
    axes.plot([0, 100], [0, 100], color="#999999", linewidth=0.8, linestyle="--")
    axes.set(
        xlabel="wrong steps kept, % (dot: at the threshold)",
        ylabel="right steps kept, %",
        xlim=(-3, 103),
        ylim=(-3, 103),
    )
    axes.legend(loc="lower right", fontsize=7)


def _reliability(axes: Axes, found: Measured, colours: dict[str, str]) -> None:
    for signal in [one for one in found.signals if one.probabilities is not None and one.rule != "p_ge"]:
        assert signal.probabilities is not None
        bins = [one for one in worth.reliability(found.steps, signal.probabilities) if one.count >= LEAST]
        axes.plot(
            [100 * one.probability for one in bins], [100 * one.right for one in bins], "o-", color=colours[signal.judge],
            label=signal.name,
        )  # fmt: skip
    axes.plot([0, 100], [0, 100], color="#999999", linewidth=0.8, linestyle="--")
    axes.set(xlabel="said: right with, % (digits: of 9)", ylabel="is right, %", xlim=(-3, 103), ylim=(-3, 103))


def _digits(axes: Axes, found: Measured, colours: dict[str, str]) -> None:
    used = {name: shares for name, said in found.answers.items() if (shares := digits_used(said)[0])}
    width = 0.8 / max(1, len(used))
    for number, (name, shares) in enumerate(used.items()):
        places = np.arange(10) + (number - (len(used) - 1) / 2) * width
        axes.bar(places, [100 * share for share in shares], width, color=colours[name], label=name)
    axes.set(xlabel="greedy digit", ylabel="steps, %", xticks=range(10), xlim=(-0.6, 9.6))
    if not used:
        axes.text(4.5, 0.5, "no judge answers with digits", ha="center", fontsize=7)
