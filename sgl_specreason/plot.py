"""Owns the command `specreason plot`: which figures there are. The scripts in `plots/` draw them, and matplotlib is theirs.

Example: python -m sgl_specreason.plot pareto runs/demo-sweep-threshold-* -o pareto.pdf
"""

import sys
from importlib import import_module

import click

from sgl_specreason.command import Group
from sgl_specreason.paths import plots

FIGURES = {
    "pareto": ("Accuracy against latency: a curve per method over its knob.", "RUN -o pareto.svg"),
    "knobs": ("Accuracy, latency and steps by small over one setting.", "SWEEP -o knobs.svg"),
    "steps": ("Who wrote which step, and where the time went.", "RUN -o steps.svg"),
    "load": ("Latency (p50, p95, p99) and throughput over concurrency.", "RUNS -o load.svg"),
    "judge": ("What the judge's digits are worth.", "RUN -o judge.svg"),
}


def _figure(name: str) -> click.Command:
    sys.path.insert(0, str(plots()))
    found: click.Command = import_module(name).main
    return found


@click.command(
    cls=Group,
    entries=FIGURES,
    command=_figure,
    epilog="RUN is a run folder, or one that holds several: a comparison or a sweep.",
)
def main() -> None:
    """Draws runs: -o NAME.svg writes NAME.svg and NAME.png, -o NAME.pdf a PDF."""


if __name__ == "__main__":
    main(prog_name="python -m sgl_specreason.plot")
