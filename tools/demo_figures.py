"""Owns the bundled pair's own figures, read from a `--bench demo` run folder with all three methods.

Example: python tools/demo_figures.py runs/demo-compare-demo-1a2b3c4d

Prints one JSON object: how often each model is right, the AUROC of the judge's score for right against wrong drafted steps
(the generator knows which are right), and SpecReason against base.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from options import Parser

from sgl_specreason.errors import UsageError
from sgl_specreason.results.calibrate import aurocs, drafts_of, signal
from sgl_specreason.results.summary import load_runs


def figures(folder: Path) -> dict[str, Any]:
    """Everything that is to be shown about the pair."""
    runs = {run.method: run for run in load_runs(folder)}
    if missing := {"base", "small", "specreason"} - runs.keys():
        raise UsageError(f"{folder}: has no run of {', '.join(sorted(missing))}")
    summaries = {method: run.summary for method, run in runs.items()}
    drafts = drafts_of([runs["specreason"]])
    greedy = Counter(signal(drafts, "greedy").astype(int).tolist())
    spec, base = summaries["specreason"], summaries["base"]
    return {
        "problems": spec.n,
        "accuracy": {name: summary.accuracy for name, summary in summaries.items()},
        "judge_auroc_expected": round(aurocs(drafts, "expected")[0], 4),
        "judge_auroc_greedy": round(aurocs(drafts, "greedy")[0], 4),
        "drafts_judged": len(drafts),
        "drafts_right_share": round(float(drafts["step_right"].mean()), 4),
        "digits_used": dict(sorted(greedy.items())),
        "offloaded_steps_share": spec.offloaded_steps_share,
        "label_mass_mean": spec.label_mass_mean,
        "wall_s": {name: round(summary.wall_s, 1) for name, summary in summaries.items()},
        "latency_ratio_base_to_specreason": round(base.latency_mean_s / spec.latency_mean_s, 3),
        "concurrency": spec.concurrency,
    }


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="a folder with base, small and specreason on the demo bench")
    try:
        print(json.dumps(figures(parser.parse_args().run), indent=1))
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
