"""Owns how a measurement reads, as text and as Markdown. Knows no statistics."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sgl_specreason.judging.folder import SUMMARY
from sgl_specreason.judging.measured import Measured, measured
from sgl_specreason.judging.report import summary
from sgl_specreason.results.folder import write_json, write_text
from sgl_specreason.results.layout import Table
from sgl_specreason.words import counted

UNKNOWN = "unknown"


def written(path: Path) -> tuple[Measured, dict[str, Any]]:
    """What stands in a folder and its summary, after writing summary.json and summary.md. Raises RecordError and WriteError."""
    found = measured(path)
    numbers = summary(found)
    write_text(path / "summary.md", markdown(found, numbers))
    write_json(path / SUMMARY, numbers)
    return found, numbers


def text(found: Measured, numbers: Mapping[str, Any]) -> str:
    """What a terminal shows."""
    return "\n".join([worth_table(found, numbers).text(), cost_table(found, numbers).text()])


def markdown(found: Measured, numbers: Mapping[str, Any]) -> str:
    """All of it, thresholds, too."""
    parts = [
        f"# The judge of {found.config.settings.pair} on {found.config.settings.bench}\n",
        worth_table(found, numbers).markdown(),
        cost_table(found, numbers).markdown(),
        *_thresholds(numbers),
    ]
    return "\n".join(parts).rstrip("\n") + "\n"


def worth_table(found: Measured, numbers: Mapping[str, Any]) -> Table:
    """A row for each signal; the sentences and the conditions under it."""
    rows = [["judge", "AUROC (95 %)", "AP wrong", "Brier", "at", "right %", "wrong %", "F1", "best F1 (at)"]]
    for name, row in numbers["signals"].items():
        stated, best = row["stated"], row["best"]
        low, high = row["auroc_ci95"]
        area = "-" if math.isnan(row["auroc"]) else f"{row['auroc']:.3f} [{low:.3f}, {high:.3f}]"
        rows.append(
            [
                name,
                area,
                _number(row["average_precision_of_wrong"], ".3f"),
                _number(row["brier"], ".3f"),
                f"{stated['threshold']:g}",
                _percent(stated["right_kept"]),
                _percent(stated["wrong_kept"]),
                _percent(stated["f1"]),
                "-" if math.isnan(best["f1"]) else f"{_percent(best['f1'])} ({best['threshold']:.3g})",
            ]
        )
    return Table(rows=rows, notes=[*numbers["sentences"], *_conditions(found, numbers)])


def _conditions(found: Measured, numbers: Mapping[str, Any]) -> Iterator[str]:
    settings, config = found.config.settings, found.config
    wrong = f"{_percent(numbers['wrong_share'])} % of them wrong"
    partial = f" Partial: {config.steps} steps were to be judged." if found.partial else ""
    yield (
        f"{settings.bench}, pair {settings.pair}: {counted(numbers['problems'], 'problem')}, "
        f"{counted(numbers['steps'], 'labelled step')}, {wrong}; concurrency {settings.concurrency}.{partial}"
    )
    models = ", ".join(f"{role} {model}" for role, model in settings.models.items())
    yield f"Models: {models}. GPU: {config.gpu or UNKNOWN}. sglang {config.versions.get('sglang', UNKNOWN)}."
    prompts = ", ".join(
        f"{one.name} {one.prompts.get('judge_binary' if one.judge == 'binary' else 'judge', UNKNOWN)[:8]}"
        for one in settings.judges
        if one.judge != "likelihood"
    )
    yield f"Rows sha256 {settings.dataset_sha256[:12]}" + (f"; templates sha256: {prompts}." if prompts else ".")
    yield (
        "AUROC: intervals by problem. AP: of finding wrong steps, by chance their share. right %, wrong %: of these, kept at the "
        "threshold. F1: ProcessBench's, %, there, and at the threshold that is best on these very steps; it wants problems with "
        "and without a wrong step, all of them judged."
    )


def cost_table(found: Measured, numbers: Mapping[str, Any]) -> Table:
    """A row for each judge: its digits, label mass, and what a judgement costs."""
    rows = [["judge", "digits used", "entropy", "each", "label mass", "ms", "new", "cached"]]
    for name, row in numbers["judges"].items():
        used = [f"{digit}:{100 * share:.0f}" for digit, share in enumerate(row["digits"]) if share >= 0.01]
        rows.append(
            [
                name,
                " ".join(used) or "-",
                _number(row["digits_entropy_bits"], ".2f"),
                _number(row["answer_entropy_bits"], ".2f"),
                _number(row["label_mass_mean"], ".3f"),
                _number(row["ms"], ".1f"),
                _number(row["new_tokens"], ".1f"),
                _number(row["cached_tokens"], ".1f"),
            ]
        )
    notes = [
        f"Cached share of all prompt tokens: {_percent(numbers['cached_share'])} %. Digits used: % of the likeliest digits; "
        "their entropy, and that of each answer, in bits. New and cached: tokens of a judgement. Costs (ms: the median) are of "
        "the steps that a judge was asked about first: whoever is first has the step computed."
    ]
    low = [name for name, row in numbers["judges"].items() if row["label_mass_mean"] < 0.5]
    notes += [
        f"Warning: {name} puts less than half of its probability on its labels: its template is not understood."
        for name in low
    ]
    return Table(rows=rows, notes=notes)


def _thresholds(numbers: Mapping[str, Any]) -> Iterator[str]:
    yield "## Thresholds\n"
    yield (
        "What each would keep, % of all steps, of right and of wrong ones, and ProcessBench's F1. Of p_ge it is the cut on its "
        "probability.\n"
    )
    for name, row in numbers["signals"].items():
        lines: list[Sequence[str]] = [["threshold", "kept", "right kept", "wrong kept", "F1"]]
        lines += [
            [
                f"{one['threshold']:.3g}",
                *(_percent(one[key]) for key in ("kept", "right_kept", "wrong_kept", "f1")),
            ]
            for one in row["thresholds"]
        ]
        yield Table(rows=[list(line) for line in lines], notes=[], title=f"### {name}").markdown()


def _percent(value: float) -> str:
    return _number(100 * value, ".1f")


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"
