"""Accuracy against what it costs: one curve per method over its knob, baselines as points.

Example: python plots/pareto.py runs/demo-sweep-threshold-* -o pareto.svg
"""

import tomllib
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
from drawing import COLOURS, MARKS, bars, caption, draw, finished, script
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from msgspec import Struct

from sgl_specreason.errors import UsageError
from sgl_specreason.results import labels, stats
from sgl_specreason.results.schema import Summary
from sgl_specreason.results.summary import Run, knobs
from sgl_specreason.results.transcript import plain
from sgl_specreason.typed import Number, typed

AXES: dict[str, tuple[str, Callable[[Summary], float]]] = {
    "latency": ("mean latency, s", lambda summary: summary.latency_mean_s),
    "tokens": (
        "thinking tokens per trajectory, both models",
        lambda summary: (summary.tokens_base + summary.tokens_small) / summary.trajectories,
    ),
    "base-tokens": (
        "thinking tokens by base per trajectory",
        lambda summary: summary.tokens_base / summary.trajectories,
    ),
}


class Point(Struct, frozen=True, kw_only=True):
    """One of a publication, in the units of the figure."""

    label: str
    x: Number
    accuracy: Number


class Published(Struct, frozen=True, kw_only=True):
    """What --published reads."""

    source: str
    points: list[Point]


def pareto(runs: Sequence[Run], *, x: str = "latency", published: Path | None = None) -> Figure:
    """Draws accuracy with its 95 % interval against latency, thinking tokens or base's tokens.

    Points of one method that differ in a setting are joined in its order and labelled with it. The shaded region holds what
    some run beats in both directions, where there are enough problems to say so. Raises UsageError where no trajectory has ended.
    """
    label, cost = AXES[x]
    runs = finished(runs)
    figure, axes = plt.subplots()
    told = knobs(runs)
    points = [(cost(run.summary), 100 * run.summary.accuracy) for run in runs]
    groups: dict[str, list[int]] = {}
    for number, (run, words) in enumerate(zip(runs, labels.apart(runs), strict=True)):
        groups.setdefault(f"{run.method} {words}".strip(), []).append(number)
    named: list[tuple[tuple[float, float], str]] = []
    for name, members in groups.items():
        method = runs[members[0]].method
        members.sort(key=lambda number: [(str(type(v)), v) for v in told[number].values()])
        colour, mark = COLOURS.get(method), MARKS.get(method, "o")
        for number in members:
            low, high = (100 * bound for bound in runs[number].summary.accuracy_ci95)
            axes.plot([points[number][0]] * 2, [low, high], color=colour, linewidth=0.7, alpha=0.6, zorder=2)
        shown = name
        keys = sorted({key for number in members for key in told[number]})
        if keys:
            shown += f" ({', '.join(keys)})"
        style = "-" if len(members) > 1 else ""
        xs, ys = zip(*(points[number] for number in members), strict=True)
        axes.plot(xs, ys, style, marker=mark, color=colour, label=shown, zorder=3)
        named += [(points[number], _knob(told[number])) for number in members if told[number]]
    if all(run.summary.n >= stats.FEW for run in runs):
        _shade(axes, points)
    if published is not None:
        _overlay(axes, published)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy, %")
    figure.legend(loc="outside upper left", ncols=2, handlelength=1.5, columnspacing=1.0)
    caption(figure, runs, *bars(runs))
    _label_knobs(figure, axes, named)
    return figure


def _label_knobs(figure: Figure, axes: Axes, named: list[tuple[tuple[float, float], str]]) -> None:
    """The knob's value beside each point; labels that would overlap become one at the first of their points."""
    figure.draw_without_rendering()
    groups = [(place, [name]) for place, name in named]
    while True:
        labels = [
            axes.annotate(
                _span(names), place, xytext=(4, -9), textcoords="offset points", fontsize=7, color="#444444", zorder=4
            )
            for place, names in groups
        ]
        boxes = [label.get_window_extent() for label in labels]
        hit = next(((a, b) for a, b in combinations(range(len(boxes)), 2) if boxes[a].overlaps(boxes[b])), None)
        if hit is None:
            return
        for label in labels:
            label.remove()
        first, second = hit
        groups[first][1].extend(groups[second][1])
        del groups[second]


def _span(names: list[str]) -> str:
    return (
        names[0] if len(names) == 1 else f"{names[0]}, {names[1]}" if len(names) == 2 else f"{names[0]} to {names[-1]}"
    )


def _knob(values: dict[str, Any]) -> str:
    return "/".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values.values())


def _shade(axes: Axes, points: list[tuple[float, float]]) -> None:
    """Everything that costs more and is right less often than one of the points."""
    front, best = [], -np.inf
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if y > best:
            front.append((x, y))
            best = y
    axes.margins(0.08)
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    corners = [*front, (right, front[-1][1])]
    xs, ys = [], []
    for (x, y), (following, _) in pairwise(corners):
        xs += [x, following]
        ys += [y, y]
    axes.fill_between(xs, bottom, ys, color="#999999", alpha=0.12, linewidth=0, zorder=0)


def _overlay(axes: Axes, file: Path) -> None:
    """Points of a publication: `source`, and [[points]] with label, x and accuracy (%) in the units of this figure."""
    try:
        published = typed(tomllib.loads(file.read_text(encoding="utf-8")), Published)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--published {file}: wants source and [[points]] with label, x, accuracy: {error}") from None
    points, label = published.points, f"published: {plain(published.source)}"
    axes.autoscale(True)
    axes.plot([p.x for p in points], [p.accuracy for p in points], "*", color="#009E73", label=label)
    for point in points:
        place = point.x, point.accuracy
        axes.annotate(plain(point.label), place, xytext=(4, 3), textcoords="offset points", fontsize=7)


@click.option("--x", type=click.Choice(list(AXES)), default="latency", show_default=True, help="What it costs.")
@click.option(
    "--published",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Points of a publication to draw, too: source, and [[points]] with label, x, accuracy.",
)
@script
def main(runs: tuple[Path, ...], out: Path, force: bool, **settings: Any) -> None:
    """Draws accuracy against cost: one curve per method over its knob, baselines as points, what is beaten shaded.

    RUN is a run folder, or one that holds several: a comparison or a sweep.
    """
    draw(pareto, runs, out, force=force, **settings)


if __name__ == "__main__":
    main()
