"""Who wrote which step along the trajectories, and where their time went.

Example: python plots/steps.py runs/demo-compare-demo-1a2b3c4d -o steps.svg
"""

import itertools
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from drawing import COLOURS, PARTS, caption, draw, script
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sgl_specreason.errors import UsageError
from sgl_specreason.results import labels
from sgl_specreason.results.lines import Finished, Record, Request
from sgl_specreason.results.summary import Run, outcomes

MOST_STEPS, LONGEST_LABEL = 60, 18
ABOVE: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1),
    "ncols": 3,
    "columnspacing": 1.0,
    "handlelength": 1.2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What is drawn of one trajectory: tokens, seconds by purpose, and of the first MOST_STEPS who wrote them."""

    authors: tuple[str, ...]
    drafts: int
    base: int
    small: int
    small_kept: int
    latency_s: float
    spent_s: dict[str, float]


def tallied(run: Run, record: Record) -> Iterator[Tally]:
    """The part of a run that this figure is made of."""
    if isinstance(record, Finished):
        yield Tally(
            authors=tuple(step.by for step in record.steps[:MOST_STEPS]),
            drafts=record.drafts,
            base=record.tokens_base,
            small=record.tokens_small,
            small_kept=record.tokens_small_kept,
            latency_s=record.latency_s,
            spent_s=spent(record.requests),
        )


def steps(runs: Sequence[Run]) -> Figure:
    """Draws authors by step number, tokens by author with discarded ones, and seconds per trajectory by purpose.

    Raises UsageError where no trajectory has ended.
    """
    for run in runs:
        run.read(outcomes, tallied)
    done = {name: run.of(tallied) for name, run in zip(map(_folded, labels.names(runs)), runs, strict=True)}
    done = {name: records for name, records in done.items() if records}
    if not done:
        raise UsageError("these runs hold no finished trajectory")
    stepwise = {name: records for name, records in done.items() if any(record.drafts for record in records)}
    heights = [1.0] * len(stepwise) + [0.3 + sum(0.14 + 0.11 * len(name.splitlines()) for name in done)] * 2
    size = (3.4, 1.6 + 1.2 * sum(heights))
    figure, panels = plt.subplots(len(heights), 1, figsize=size, height_ratios=heights, squeeze=False)
    for number, (axes, (name, records)) in enumerate(zip(panels[:, 0], stepwise.items(), strict=False)):
        _authors(axes, name, records)
        if number == 0:
            axes.legend(**ABOVE)
    if stepwise:
        panels[len(stepwise) - 1, 0].set_xlabel("step")
    tokens, seconds = panels[-2, 0], panels[-1, 0]
    _stacked(tokens, {name: _tokens(records) for name, records in done.items()}, TOKENS)
    tokens.set_xlabel("thinking tokens per trajectory")
    _stacked(seconds, {name: _seconds(records) for name, records in done.items()}, PARTS)
    seconds.set_xlabel("seconds per trajectory")
    caption(figure, runs)
    return figure


TOKENS = {"base": COLOURS["base"], "small, kept": COLOURS["small"], "small, discarded": "#BBBBBB"}


def _folded(name: str) -> str:
    """A run's name in lines that leave room for the bars."""
    return textwrap.fill(name, LONGEST_LABEL, break_long_words=False)


def _authors(axes: Axes, name: str, records: Sequence[Tally]) -> None:
    longest = max(len(record.authors) for record in records)
    counts: dict[str, list[int]] = {"small": [0] * longest, "base": [0] * longest}
    for record in records:
        for number, author in enumerate(record.authors):
            counts[author][number] += 1
    bottom = np.zeros(longest)
    for author, values in counts.items():
        axes.bar(np.arange(1, longest + 1), values, bottom=bottom, color=COLOURS[author], label=author, width=0.9)
        bottom += values
    axes.set(ylabel=name, xlim=(0.3, longest + 0.7))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _tokens(records: Sequence[Tally]) -> dict[str, float]:
    base, small, kept = (
        sum(counts) / len(records) for counts in zip(*((r.base, r.small, r.small_kept) for r in records), strict=True)
    )
    return {"base": base, "small, kept": kept, "small, discarded": small - kept}


def spent(requests: Sequence[Request]) -> dict[str, float]:
    """Seconds by what a trajectory waited for: base's work, else a draft."""
    found: defaultdict[str, float] = defaultdict(float)
    begins = [(r.start_s, 1, r.purpose) for r in requests]
    ends = [(r.start_s + r.seconds, -1, r.purpose) for r in requests]
    busy: Counter[str] = Counter()
    for (start, change, purpose), (end, _, _) in itertools.pairwise(sorted(begins + ends)):
        busy[purpose] += change
        running = [purpose for purpose, count in busy.items() if count]
        if running:  # drafts written ahead take no time of their own
            found[min(running, key=lambda purpose: purpose == "draft")] += end - start
    return found


def _seconds(records: Sequence[Tally]) -> dict[str, float]:
    """The mean of a trajectory, by what it waited for; what no request accounts for is waiting."""
    total = {part: sum(record.spent_s.get(part, 0.0) for record in records) for part in PARTS}
    total["waiting"] = max(sum(record.latency_s - sum(record.spent_s.values()) for record in records), 0.0)
    return {part: seconds / len(records) for part, seconds in total.items()}


def _stacked(axes: Axes, rows: dict[str, dict[str, float]], colours: dict[str, str]) -> None:
    names = list(rows)
    left = np.zeros(len(names))
    for part, colour in colours.items():
        values = np.array([rows[name][part] for name in names])
        if values.any():
            axes.barh(names, values, left=left, color=colour, label=part, height=0.7)
            left += values
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(**ABOVE)


@script
def main(runs: tuple[Path, ...], out: Path, force: bool, **settings: Any) -> None:
    """Draws who wrote which step, whose tokens were thrown away, and where wall time went."""
    draw(steps, runs, out, force=force, **settings)


if __name__ == "__main__":
    main()
