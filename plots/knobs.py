"""Accuracy, latency and offloaded share over one setting.

Example: python plots/knobs.py runs/demo-sweep-threshold-* -o threshold.svg
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from drawing import COLOURS, MARKS, bars, caption, draw, finished, script
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sgl_specreason.errors import UsageError
from sgl_specreason.method.policy import ALONE, is_alone
from sgl_specreason.results import labels
from sgl_specreason.results.summary import Run
from sgl_specreason.results.summary import knobs as told_apart

ROWS = (
    ("accuracy, %", "accuracy", 100),
    ("mean latency, s", "latency_mean_s", 1),
    ("steps by small, %", "offloaded_steps_share", 100),
)


def knobs(runs: Sequence[Run], *, knob: str | None = None) -> Figure:
    """Draws the three over `knob`, or over the only setting in which the runs differ; base and small as level lines.

    Raises UsageError where there is no such setting, or more than one, or no trajectory has ended.
    """
    runs = finished(runs)
    found = told_apart(runs)
    names = sorted({key for values in found for key in values})
    if knob is None:
        if len(names) != 1:
            words = (
                f"they differ in {', '.join(names)}; choose one with --knob" if names else "they differ in no setting"
            )
            raise UsageError(f"these runs have no one setting to draw over: {words}")
        knob = names[0]
    elif knob not in names:
        raise UsageError(
            f"--knob {knob}: these runs do not differ in it; they differ in {', '.join(names) or 'nothing'}"
        )
    lines: dict[tuple[str, str], list[tuple[Any, Run]]] = {}
    levels = []
    for run, values, apart in zip(runs, found, labels.apart(runs), strict=True):
        if knob in values:
            others = ", ".join([*(f"{key}={value}" for key, value in values.items() if key != knob), *apart.split()])
            lines.setdefault((run.method, others), []).append((values[knob], run))
        elif is_alone(run.method) and knob not in ALONE:
            levels.append(run)
    figure, panels = plt.subplots(len(ROWS), 1, figsize=(3.4, 4.6), sharex=True)
    ticks = sorted({value for points in lines.values() for value, _ in points}, key=lambda v: (str(type(v)), v))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in ticks)
    for panel, (label, key, scale) in zip(panels, ROWS, strict=True):
        for number, ((method, others), points) in enumerate(lines.items()):
            points.sort(key=lambda pair: ticks.index(pair[0]))
            xs = [value if numeric else ticks.index(value) for value, _ in points]
            ys = [scale * getattr(run.summary, key) for _, run in points]
            alone = len([one for one in lines if one[0] == method]) == 1
            colour = COLOURS.get(method) if alone else f"C{number}"
            if key == "accuracy":
                bounds = [[scale * bound for bound in run.summary.accuracy_ci95] for _, run in points]
                panel.vlines(xs, *zip(*bounds, strict=True), color=colour, linewidth=0.7, alpha=0.6)
            panel.plot(
                xs, ys, marker=MARKS.get(method, "o"), color=colour, label=" ".join(filter(None, [method, others]))
            )
        for run in levels:
            if key != "offloaded_steps_share":
                panel.axhline(
                    scale * getattr(run.summary, key),
                    color=COLOURS[run.method],
                    linestyle="--",
                    linewidth=1,
                    label=run.method,
                )
        panel.set_ylabel(label)
        panel.margins(y=0.12)
    panels[-1].set_xlabel(knob.replace("_", " "))
    if numeric and len(ticks) <= 12:
        panels[-1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    elif not numeric:
        panels[-1].set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, columnspacing=1.0)
    caption(figure, runs, *bars(runs))
    return figure


@click.option("--knob", metavar="SETTING", help="What to draw over.  [default: the only setting that differs]")
@script
def main(runs: tuple[Path, ...], out: Path, force: bool, **settings: Any) -> None:
    """Draws accuracy, latency and the share of steps by small over one setting: threshold, first_n, budget_tokens, drafts, ...

    RUN is best the folder of a sweep.
    """
    draw(knobs, runs, out, force=force, **settings)


if __name__ == "__main__":
    main()
