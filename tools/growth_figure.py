"""Owns the picture of how work grows with a trajectory's length, drawn from what `bench.py --out` wrote.

Example: python tools/growth_figure.py runs/bench/bench.json -o plots/figures/growth.svg
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from options import Parser

STYLE = Path(__file__).parent.parent / "plots" / "specreason.mplstyle"


def draw(data: dict[str, list[float]], file: Path) -> None:
    """Client CPU and prefilled tokens over a trajectory's length, each with the line that fits it."""
    panels = (
        ("tokens", "client_cpu_s", "client CPU, s", "o"),
        ("length", "prefilled", "tokens prefilled, both engines", "."),
    )
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.6), layout="constrained")
        for axis, (across, up, label, mark) in zip(axes, panels, strict=True):
            x, y = np.array(data[across]), np.array(data[up])
            axis.plot(x, np.polyval(np.polyfit(x, y, 1), x), color="0.6", linewidth=1, label="straight line")
            axis.plot(x, y, mark, markersize=4, label="measured")
            axis.set(xlabel="length of the trajectory, tokens", ylabel=label, xlim=(0, None), ylim=(0, None))
            axis.legend(loc="upper left")
        figure.savefig(file)
        plt.close(figure)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="bench.json of a run of bench.py")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the picture, SVG or PNG")
    options = parser.parse_args()
    try:
        data = json.loads(options.data.read_text(encoding="utf-8"))["growth"]
        draw(data, options.out)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{options.data} drawn to {options.out}: {error}")


if __name__ == "__main__":
    main()
