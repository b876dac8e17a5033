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

from sgl_specreason.demo.problems import problems
from sgl_specreason.records import read_trajectories


def judged_drafts(run: Path) -> list[tuple[float, int, bool]]:
    """Expected score, greedy score and truth of every judged draft of a SpecReason run."""
    chains = {f"demo-{number:03d}": problem for number, problem in enumerate(problems("test", 200), 1)}
    found = []
    for record in read_trajectories(run):
        before: list[str] = []
        for step in record["steps"]:
            if "digits" in step:
                text = step["draft"]["text"] if "draft" in step else step["text"]
                right = chains[record["problem_id"]].step_is_right(before, text)
                digits = step["digits"]
                found.append((sum(i * p for i, p in enumerate(digits)), digits.index(max(digits)), right))
            before.append(step["text"])
    return found


def auroc(scores: list[float], right: list[bool]) -> float:
    """The probability that a right step scores above a wrong one, ties as half."""
    good = [score for score, is_right in zip(scores, right, strict=True) if is_right]
    bad = [score for score, is_right in zip(scores, right, strict=True) if not is_right]
    wins = sum((g > b) + (g == b) / 2 for g in good for b in bad)
    return wins / (len(good) * len(bad))


def figures(folder: Path) -> dict[str, Any]:
    """Everything that is to be shown about the pair."""
    summaries = json.loads((folder / "summary.json").read_text())["methods"]
    run = next(path for path in folder.iterdir() if path.name.startswith("demo-specreason-"))
    expected, greedy, right = map(list, zip(*judged_drafts(run), strict=True))
    spec, base = summaries["specreason"], summaries["base"]
    return {
        "problems": spec["n"],
        "accuracy": {name: summary["accuracy"] for name, summary in summaries.items()},
        "judge_auroc_expected": round(auroc(expected, right), 4),
        "judge_auroc_greedy": round(auroc(greedy, right), 4),
        "drafts_judged": len(right),
        "drafts_right_share": round(sum(right) / len(right), 4),
        "digits_used": dict(sorted(Counter(greedy).items())),
        "offloaded_steps_share": spec["offloaded_steps_share"],
        "label_mass_mean": spec["label_mass_mean"],
        "wall_s": {name: round(summary["wall_s"], 1) for name, summary in summaries.items()},
        "latency_ratio_base_to_specreason": round(base["latency_mean_s"] / spec["latency_mean_s"], 3),
        "concurrency": spec["concurrency"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="a folder with base, small and specreason on the demo bench")
    print(json.dumps(figures(parser.parse_args().run), indent=1))


if __name__ == "__main__":
    main()
