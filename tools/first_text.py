"""Owns how long a stream's reader waits: for the first text of a thought, and between pieces, by the method and by base alone.

Example: python tools/first_text.py --problems 30

One question at a time, greedy, each by every model of one server in turn, so that the machine's noise hits all alike. Prints one
JSON object with medians and 95th percentiles in milliseconds, and the ratios to base.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from asking import Served
from options import Parser, at_least

from sgl_specreason.demo.problems import problems
from sgl_specreason.text.prompts import load_prompts

MODELS = ("base", "specreason", "small")


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=at_least(2), default=30)
    options = parser.parse_args()
    template = load_prompts()["math"]
    firsts: dict[str, list[float]] = {model: [] for model in MODELS}
    gaps: dict[str, list[float]] = {model: [] for model in MODELS}
    whole: dict[str, list[float]] = {model: [] for model in MODELS}
    with (
        tempfile.TemporaryDirectory(prefix="first-text-") as folder,
        Served(["--pair", "demo"], Path(folder) / "log") as served,
    ):
        served.ready()
        for number, problem in enumerate(problems("test", options.problems + 1)):
            messages = [{"role": "user", "content": template.fill(problem=problem.text)}]
            for model in MODELS:
                at = [time.monotonic()]
                outcome = served.asked(
                    {"model": model, "messages": messages, "stream": True, "cache_salt": f"{model} {number}"},
                    lambda chunk, at=at: at.append(time.monotonic()) or True,  # type: ignore[misc]
                )
                if outcome.end != "good":
                    raise SystemExit(f"{model}: {outcome}")
                if number:  # the first problem warms up
                    # the first chunk says who speaks, and comes with the second one, the first that has text
                    firsts[model].append(at[2] - at[0])
                    gaps[model] += [later - earlier for earlier, later in itertools.pairwise(at[2:])]
                    whole[model].append(at[-1] - at[0])
        served.end()
    found = {
        model: {
            "first_text_ms": spread(firsts[model]),
            "between_ms": spread(gaps[model]),
            "whole_ms": spread(whole[model]),
        }
        for model in MODELS
    }
    ratios = {
        model: {
            name: round(statistics.median(values[model]) / statistics.median(values["base"]), 2)
            for name, values in (("first_text", firsts), ("between", gaps), ("whole", whole))
        }
        for model in MODELS
    }
    print(json.dumps({"problems": options.problems, **found, "of_base": ratios}))
    return 0


def spread(seconds: list[float]) -> dict[str, float]:
    """The median and the 95th percentile, in ms."""
    ordered = sorted(seconds)
    return {
        "p50": round(1000 * statistics.median(ordered), 1),
        "p95": round(1000 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
    }


if __name__ == "__main__":
    sys.exit(main())
