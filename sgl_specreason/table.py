"""Owns the table that compares runs: its rows, the conditions under it, and how both read as text and as Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sgl_specreason.summary import AgainstBase, Run, against_base, differing, knobs

Record = dict[str, Any]
COLUMNS: tuple[tuple[str, str], ...] = (
    ("method", "method"),
    ("n", "n"),
    ("accuracy", "accuracy %"),
    ("truncated_share", "truncated %"),
    ("no_answer_share", "no answer %"),
    ("latency_mean_s", "mean s"),
    ("latency_p95_s", "p95 s"),
    ("thinking_base", "think base"),
    ("thinking_small", "think small"),
    ("offloaded_steps_share", "offloaded %"),
    ("tokens_discarded", "discarded"),
    ("cached_share", "cached %"),
    ("failed", "failed"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells, the first of titles and the first of each a name, and the conditions that belong under them."""

    rows: list[list[str]]
    notes: list[str]

    def text(self) -> str:
        """Aligned columns, the notes under them."""
        lines = ["  ".join(cells).rstrip() for cells in self._aligned()]
        return "\n".join([*lines, "", *self.notes]) + "\n"

    def markdown(self) -> str:
        """The same as a Markdown table."""
        lines = [f"| {' | '.join(cells)} |" for cells in self._aligned()]
        first, *others = (len(cell) for cell in self._aligned()[0])
        rule = ["-" * first, *("-" * (width - 1) + ":" for width in others)]
        return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:], "", *self.notes]) + "\n"

    def _aligned(self) -> list[list[str]]:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        return [
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            for row in self.rows
        ]


def comparison(runs: Sequence[Run]) -> Table:
    """The table of these runs, paired with base where base is among them; conditions that differ are named under it."""
    table = tabulated([run.summary for run in runs], against_base(runs), knobs(runs))
    varied = frozenset[str]().union(*(run.varied for run in runs))
    differ = differing(runs, swept=varied).items()
    notes = [f"Differs: {key}: {' | '.join(map(str, values))}" for key, values in differ]
    return Table(rows=table.rows, notes=table.notes + notes)


def tabulated(
    summaries: Sequence[Record], beside: Sequence[AgainstBase | None] = (), settings: Sequence[dict[str, Any]] = ()
) -> Table:
    """One row per run, with the conditions under it.

    `beside` holds each run's paired comparison with base, if it has one, `settings` what tells it from others of its method.
    """
    rows = [[title for _, title in COLUMNS]]
    rows += [[_cell(summary, key) for key, _ in COLUMNS] for summary in summaries]
    for row, values in zip(rows[1:], settings, strict=False):
        row[0] = " ".join([row[0], *(f"{key}={_value(value)}" for key, value in values.items())])
    names = [row[0] for row in rows[1:]]
    if any(beside):
        for row, pairing in zip(rows, [None, *beside], strict=True):
            row.insert(
                3, "-" if pairing is None else _interval(100 * pairing.accuracy.difference, pairing.accuracy.ci95, 100)
            )
            speed = pairing and pairing.speed_up
            row.insert(7, "-" if not speed else f"{speed.value:.2f} [{speed.ci95[0]:.2f}, {speed.ci95[1]:.2f}]")
        rows[0][3], rows[0][7] = "vs base (95 %)", "speed-up (95 %)"
    notes = [*_conditions(summaries), *_samples(names, summaries), *_sign_tests(names, beside)]
    return Table(rows=rows, notes=notes)


def _cell(summary: dict[str, Any], key: str) -> str:
    per_problem = max(summary["trajectories"], 1)
    match key:
        case "accuracy":
            return f"{_percent(summary['accuracy'])} ± {_percent(summary['accuracy_se'])}"
        case "thinking_base":
            return f"{summary['tokens_base'] / per_problem:.1f}"
        case "thinking_small":
            return f"{summary['tokens_small'] / per_problem:.1f}"
        case "tokens_discarded":
            return f"{summary['tokens_discarded'] / per_problem:.1f}"
        case "latency_mean_s" | "latency_p95_s":
            return f"{summary[key]:.2f}"
        case "method":
            return f"{summary['method']}{' (partial)' if summary['partial'] else ''}"
    if key.endswith("_share"):
        return _percent(summary[key])
    return str(summary[key])


def _interval(value: float, ci95: tuple[float, float], scale: float) -> str:
    low, high = (scale * bound for bound in ci95)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _conditions(summaries: Sequence[dict[str, Any]]) -> list[str]:
    first = summaries[0]
    conditions = first["conditions"]
    lines = [
        f"{first['bench']}, pair {first['pair']}, preset {first['preset']}: {first['n']} problems x {first['samples']} samples, "
        f"concurrency {first['concurrency']}, budget {first['budget_tokens']} thinking tokens.",
        f"Models: base {conditions['models']['base']}, small {conditions['models']['small']}. GPU: {conditions['gpu']}. "
        f"sglang {conditions['versions']['sglang']}.",
        f"Rows sha256 {conditions['dataset_sha256'][:12]}, judge prompt sha256 {conditions['prompts']['judge'][:12]}.",
        "Accuracy: mean over problems ± clustered standard error. Tokens are per trajectory; small's include the discarded ones.",
    ]
    lines += [
        f"{summary['method']}: {summary['loops']} of {summary['trajectories']} thoughts were ended for going round in circles."
        for summary in summaries
        if summary["loops"]
    ]
    lines += [
        f"{summary['method']}: base's decode steps gave {summary['accept_length_mean']:.2f} tokens each (token-level speculation)."
        for summary in summaries
        if summary["accept_length_mean"]
    ]
    lines += [
        f"{summary['method']}: requests were tried again {summary['retries']} times; its seconds hold these waits."
        for summary in summaries
        if summary["retries"]
    ]
    for summary in summaries:
        mass = summary["label_mass_mean"]
        if summary["judged_steps"] and mass < 0.5:
            binary = summary["policy"].get("judge") == "binary"
            asked, template = ("yes or no", "judge_binary") if binary else ("digits", "judge")
            lines.append(
                f"Warning: {summary['method']}: the judge put only {100 * mass:.0f} % of its probability on {asked}; "
                f"its template (prompts/{template}.txt, {template}_answer.txt) is not understood."
            )
    return lines


def _samples(names: Sequence[str], summaries: Sequence[Record]) -> list[str]:
    """pass@k and maj@k, where there are several samples a problem."""
    lines = []
    for name, summary in zip(names, summaries, strict=True):
        words = [f"pass@{k} {_percent(value)} %" for k, value in summary["pass_at_k"].items()]
        words += [f"maj@{k} {_percent(value)} %" for k, value in summary["maj_at_k"].items()]
        if words:
            lines.append(f"{name}: {', '.join(words)}.")
    return lines


def _sign_tests(names: Sequence[str], beside: Sequence[AgainstBase | None]) -> list[str]:
    """Where few problems tell two methods apart, the interval is rough: the exact test stands beside it."""
    return [
        f"{name} against base, of {paired.n} problems: better on {paired.better}, worse on {paired.worse}, "
        f"exact sign test p = {paired.sign_p:.2g}."
        for name, pairing in zip(names, beside, strict=False)
        if pairing is not None and (paired := pairing.accuracy)
    ]
