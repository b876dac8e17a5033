"""Owns the line beside a run's table that says whether its judge has been measured, and how to when not. Knows no engines."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sgl_specreason.errors import RecordError
from sgl_specreason.judging.folder import PREFIX, SUMMARY
from sgl_specreason.judging.measured import Asked, Config
from sgl_specreason.method.score import ScoreRule
from sgl_specreason.results.records import CONFIG, read_config
from sgl_specreason.results.summary import Run
from sgl_specreason.typed import Misfit, typed

GATES = ("judge", "confident", "self")
"""Those where the judge decides about some drafts at least."""
TEMPLATES = {
    "score": ("judge", "judge_answer"),
    "binary": ("judge_binary", "judge_binary_answer"),
    "likelihood": ("math",),
}
"""What each judge's answers hang on."""


def lines(runs: Sequence[Run], out: Path, command: Callable[..., str]) -> list[str]:
    """One line on the judge that decides in these runs, by what stands beside them in `out`; none where no judge decides.

    `command` makes a command to be pasted of its words.
    """
    run = next((run for run in runs if _decides(run)), None)
    if run is None:
        return []
    settings, policy = run.settings, run.policy
    judge = policy.judge.removesuffix("+likelihood")
    for path, asked in _measurements(run, judge, out):
        if words := _said(path, asked, policy.score_rule, policy.threshold):
            return [words]
    bench = "demo" if settings.bench == "demo" else "processbench-gsm8k"
    how = command("judge", "--bench", bench, "--judge", judge)
    return [f"This judge has not been measured on labelled steps; with the same models: {how}"]


def _decides(run: Run) -> bool:
    return (
        run.method.startswith("specreason") and run.settings.policy.get("gate", "judge") in GATES and not run.is_replay
    )


def _measurements(run: Run, judge: str, out: Path) -> Iterator[tuple[Path, Asked]]:
    """The measurements of this run's judge, with its templates and its base; those of natural steps before planted ones."""
    found = []
    for file in sorted(out.glob(f"{PREFIX}*/{CONFIG}")):
        try:
            settings = typed(read_config(file), Config).settings
        except (RecordError, Misfit):
            continue
        for asked in settings.judges:
            same = all(asked.prompts.get(name) == run.config.prompts.get(name) for name in TEMPLATES.get(judge, ()))
            if asked.judge == judge and same and settings.models.get("base") == run.settings.models.get("base"):
                found.append((file.parent, asked, settings.bench == "demo"))
    yield from ((path, asked) for path, asked, _ in sorted(found, key=lambda one: one[2]))


def _said(path: Path, asked: Asked, rule: ScoreRule, threshold: float) -> str | None:
    """What a measurement says at this threshold; None where it says nothing."""
    try:
        summary: dict[str, Any] = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
        signal = summary["signals"][f"{asked.name} {rule}"]
        low, high = signal["auroc_ci95"]
        area = signal["auroc"]
        levels = [*signal["thresholds"], signal["stated"]]
        stated = next((one for one in reversed(levels) if math.isclose(one["threshold"], threshold)), signal["stated"])
        words = (
            f"at threshold {stated['threshold']:g} it keeps {100 * stated['right_kept']:.0f} % of right and "
            f"{100 * stated['wrong_kept']:.0f} % of wrong steps"
        )
        told = (
            f"AUROC {area:.2f} [{low:.2f}, {high:.2f}] ({rule})" if area is not None else "too few steps for an AUROC"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return f"This judge on {summary['problems']} problems of {summary['bench']}: {told}; {words} ({path})."
