"""Latency and throughput over how many trajectories run side by side: where the gain goes when the machine fills.

Example: python plots/load.py runs/demo-* -o load.svg --table load.md
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
from drawing import COLOURS, MARKS, caption, conditions, finished, named, read, script, written
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import YAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from sgl_specreason.errors import UsageError
from sgl_specreason.results import stats
from sgl_specreason.results.labels import in_words
from sgl_specreason.results.layout import Table
from sgl_specreason.results.summary import Run, knobs

FEWEST = {50: 1, 95: 20, 99: 100}
"""Percentiles, each with the fewest trajectories of which it is shown: one of them lies above it."""
Dashes = Literal["-", "--", ":", "-."]
STYLES: dict[int, Dashes] = {50: "-", 95: "--", 99: ":"}
THROUGHPUT: Dashes = "-."
OVER = ("concurrency",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A method at one concurrency: `seconds` of `n` trajectories by percentile, NaN where they are too few for it."""

    method: str
    name: str
    concurrency: int
    n: int
    seconds: dict[int, float]
    per_s: float


def levels(runs: Sequence[Run]) -> list[Level]:
    """The runs, by concurrency. Raises UsageError where two are the same point, or nothing varies."""
    runs = finished(runs)
    found: dict[tuple[int, str], Level] = {}
    for run, values in zip(runs, knobs(runs), strict=True):
        name, concurrency = " ".join(filter(None, [run.method, in_words(values)])), run.summary.concurrency
        if (concurrency, name) in found:
            raise UsageError(f"{run.path}: another one of these runs is {name} at concurrency {concurrency}, too")
        latencies = [outcome.latency_s for outcome in run.outcomes if outcome.error is None]
        found[concurrency, name] = Level(
            method=run.method,
            name=name,
            concurrency=concurrency,
            n=len(latencies),
            seconds={
                rank: stats.percentile(latencies, rank) if len(latencies) >= fewest else math.nan
                for rank, fewest in FEWEST.items()
            },
            per_s=run.summary.throughput_problems_per_s,
        )
    if len({level.concurrency for level in found.values()}) == 1:
        raise UsageError("these runs are all of one concurrency; the figure is over several: run eval with others, too")
    return sorted(found.values(), key=lambda level: level.concurrency)


def load(runs: Sequence[Run]) -> Figure:
    """Draws a trajectory's seconds (p50, p95, p99) and the problems per second over concurrency, and both beside base's.

    Raises UsageError where two runs are the same point, or nothing varies.
    """
    points = levels(runs)
    curves = {name: [level for level in points if level.name == name] for name in _names(points)}
    figure, (latency, throughput, gain) = plt.subplots(3, 1, figsize=(3.4, 5.8), sharex=True)
    handles = []
    for number, (name, curve) in enumerate(curves.items()):
        style = _style(curve[0].method, number, curves)
        handles.append(Line2D([], [], label=name, **style))
        across = [level.concurrency for level in curve]
        for rank, line in STYLES.items():
            latency.plot(across, [level.seconds[rank] for level in curve], line, **style)
        throughput.plot(across, [level.per_s for level in curve], THROUGHPUT, **style)
        _gain(gain, curve, points, style)
    latency.set_ylabel("seconds of a trajectory")
    throughput.set_ylabel("problems per second")
    gain.set(ylabel="times as good as base", xlabel="trajectories side by side")
    gain.axhline(1, color="#999999", linewidth=0.8, zorder=1)
    _doubling(latency.yaxis, [seconds for level in points for seconds in level.seconds.values()])
    _doubling(throughput.yaxis, [level.per_s for level in points])
    gain.set_xscale("log", base=2)
    ticks = sorted({level.concurrency for level in points})
    gain.set_xticks(ticks, [str(tick) for tick in ticks])
    gain.xaxis.set_minor_locator(NullLocator())
    handles += [Line2D([], [], color="#444444", linestyle=line, label=f"p{rank}") for rank, line in STYLES.items()]
    handles.append(Line2D([], [], color="#444444", linestyle=THROUGHPUT, label="throughput"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3, columnspacing=1.0)
    caption(figure, runs, *notes(points))
    return figure


def _doubling(axis: YAxis, values: Sequence[float]) -> None:
    """A scale of doublings where there are at least two of them, else none of its marks might be in sight."""
    known = [value for value in values if value > 0]
    if known and max(known) > 4 * min(known):
        axis.axes.set_yscale("log", base=2)
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _names(points: Sequence[Level]) -> list[str]:
    return list(dict.fromkeys(level.name for level in points))


def _style(method: str, number: int, curves: dict[str, list[Level]]) -> dict[str, Any]:
    alone = len([curve for curve in curves.values() if curve[0].method == method]) == 1
    return {"color": COLOURS.get(method) if alone else f"C{number}", "marker": MARKS.get(method, "o")}


def _gain(axes: Axes, curve: Sequence[Level], points: Sequence[Level], style: dict[str, Any]) -> None:
    """How many times as fast as base at the same concurrency, and how many times its throughput."""
    pairs = [(level, base) for level in curve if (base := _base_of(level, points))]
    across = [level.concurrency for level, _ in pairs]
    for rank, line in STYLES.items():
        axes.plot(across, [base.seconds[rank] / level.seconds[rank] for level, base in pairs], line, **style)
    axes.plot(across, [level.per_s / base.per_s for level, base in pairs], THROUGHPUT, **style)


def _base_of(level: Level, points: Sequence[Level]) -> Level | None:
    """Base at the same concurrency; None for base itself."""
    bases = [other for other in points if other.method == "base" and other.concurrency == level.concurrency]
    return bases[0] if bases and level.method != "base" else None


def notes(points: Sequence[Level]) -> list[str]:
    """Of how many trajectories the percentiles are, and which are left out."""
    counts = sorted({level.n for level in points})
    words = [f"percentiles of {_span(counts)} trajectories at each point"]
    missing = [f"p{rank}" for rank, fewest in FEWEST.items() if counts[0] < fewest]
    return words + [f"{' and '.join(missing)} of fewer than {_fewest(missing)} not shown"] * bool(missing)


def _fewest(missing: Sequence[str]) -> str:
    return " and ".join(str(FEWEST[int(name[1:])]) for name in missing)


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def table(runs: Sequence[Run]) -> Table:
    """The same numbers as a table, with the conditions under it."""
    points = levels(runs)
    head = ["side by side", "method", "n", "p50 s", "p95 s", "p99 s", "problems/s"]
    rows = [[*head, "p50, times as fast", "p95", "p99", "throughput, times"]]
    for level in points:
        base = _base_of(level, points)
        ratios = [base.seconds[rank] / level.seconds[rank] for rank in FEWEST] if base else [math.nan] * len(FEWEST)
        ratios.append(level.per_s / base.per_s if base else math.nan)
        seconds = [_cell(value) for value in level.seconds.values()]
        rows.append(
            [str(level.concurrency), level.name, str(level.n), *seconds, _cell(level.per_s), *map(_cell, ratios)]
        )
    return Table(rows=rows, notes=[f"{conditions(runs)}; {'; '.join(notes(points))}."])


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


@click.option(
    "--table", "markdown", type=click.Path(path_type=Path), metavar="FILE.md", help="Write the numbers as a table, too."
)
@script
def main(runs: tuple[Path, ...], out: Path, force: bool, markdown: Path | None) -> None:
    """Draws latency (p50, p95, p99) and throughput over the concurrency of these runs, and both beside base's.

    RUN is a run folder, or one that holds several: of one eval for each --concurrency, alike in all else.
    """
    named(out)
    found = read(runs, force=force, over=OVER, replays=True)
    figure, text = load(found), table(found).markdown()
    if markdown is not None:
        try:
            markdown.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--table {markdown}: cannot be written: {error.strerror}") from None
        click.echo(markdown)
    written(figure, out)


if __name__ == "__main__":
    main()
