"""Owns the table that compares runs: its rows, the conditions under it, and how both read as text and as Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sgl_specreason.results import stats
from sgl_specreason.results.schema import Memory, ReplaySummary, Summary
from sgl_specreason.results.summary import AgainstBase, Run, against_base, differing, knobs
from sgl_specreason.words import counted

ACCURACY = "accuracy % (95 %)"
COLUMNS: tuple[tuple[str, str], ...] = (
    ("method", "method"),
    ("n", "n"),
    ("accuracy", ACCURACY),
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
OF_REPLAYS: tuple[tuple[str, str], ...] = (
    ("method", "method"),
    ("n", "n"),
    ("latency_mean_s", "mean s"),
    ("latency_p95_s", "p95 s"),
    ("throughput_tokens_per_s", "tokens/s"),
    ("thinking_base", "think base"),
    ("thinking_small", "think small"),
    ("acceptance_share", "accepted %"),
    ("tokens_discarded", "discarded"),
    ("cached_share", "cached %"),
    ("failed", "failed"),
)

UNKNOWN = "unknown"
OF_ACCURACY = (
    "Accuracy: mean over problems, with its 95 % interval by problem. Tokens are per trajectory; small's include "
    "the discarded ones."
)
TOO_FEW = (
    f"Fewer than {stats.FEW} problems are too few to say anything: differences, speed-ups and p are left out, and one problem "
    "has no interval."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells, the first of titles and the first of each a name; the conditions under them, and what stands above."""

    rows: list[list[str]]
    notes: list[str]
    title: str = ""

    def text(self) -> str:
        """Aligned columns, the notes under them."""
        lines = ["  ".join(cells).rstrip() for cells in self._aligned()]
        return "\n".join([*self._above(), *lines, "", *self.notes]) + "\n"

    def markdown(self) -> str:
        """The same as a Markdown table."""
        lines = [f"| {' | '.join(cells)} |" for cells in self._aligned()]
        first, *others = (len(cell) for cell in self._aligned()[0])
        rule = ["-" * first, *("-" * (width - 1) + ":" for width in others)]
        head = [*self._above(), lines[0], f"| {' | '.join(rule)} |"]
        return "\n".join([*head, *lines[1:], "", *self.notes]) + "\n"

    def _above(self) -> list[str]:
        return [self.title, ""] if self.title else []

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
    return replace(table, notes=table.notes + notes)


def tabulated(
    summaries: Sequence[Summary], beside: Sequence[AgainstBase | None] = (), settings: Sequence[dict[str, Any]] = ()
) -> Table:
    """One row per run, with the conditions under it.

    `beside` holds each run's paired comparison with base, if it has one, `settings` what tells it from others of its method.
    """
    replays = [summary for summary in summaries if isinstance(summary, ReplaySummary)]
    columns = OF_REPLAYS if replays else COLUMNS
    rows = [[title for _, title in columns]]
    rows += [[_cell(summary, key) for key, _ in columns] for summary in summaries]
    for row, values in zip(rows[1:], settings, strict=False):
        row[0] = " ".join([row[0], *(f"{key}={_value(value)}" for key, value in values.items())])
    names = [row[0] for row in rows[1:]]
    if any(beside):
        pairings = [None, *beside]
        if not replays:
            accuracies = [pairing and pairing.accuracy for pairing in pairings]
            cells = [_difference(found) if found else "-" for found in accuracies]
            _insert(rows, ACCURACY, ["vs base (95 %)", *cells[1:]])
        speeds = [pairing and pairing.speed_up for pairing in pairings]
        cells = [_ratio(found) if found else "-" for found in speeds]
        _insert(rows, "mean s", ["speed-up (95 %)", *cells[1:]])
    notes = [*_conditions(summaries), *_samples(names, summaries), *_sign_tests(names, beside)]
    few = any(pairing and pairing.speed_up.too_few for pairing in beside)
    notes += [TOO_FEW] if few or any(0 < summary.n < stats.FEW for summary in summaries) else []
    return Table(rows=rows, notes=notes, title=_title(replays[0]) if replays else "")


def _insert(rows: list[list[str]], after: str, cells: Sequence[str]) -> None:
    """One more column, after the one of this title."""
    at = rows[0].index(after) + 1
    for row, cell in zip(rows, cells, strict=True):
        row.insert(at, cell)


def _title(replay: ReplaySummary) -> str:
    weights = ", with random weights" if replay.dummy_weights else ""
    return f"Replay of {replay.trace.origin}{weights}: no answers, no accuracy"


def _cell(summary: Summary, key: str) -> str:
    each = max(summary.trajectories, 1)
    match key:
        case "accuracy":
            return _estimate(summary.accuracy, summary.accuracy_ci95, ".1f", 100)
        case "thinking_base":
            return f"{summary.tokens_base / each:.1f}"
        case "thinking_small":
            return f"{summary.tokens_small / each:.1f}"
        case "tokens_discarded":
            return f"{summary.tokens_discarded / each:.1f}"
        case "acceptance_share":
            return _percent(summary.acceptance) if summary.drafts else "-"
        case "throughput_tokens_per_s":
            return _number(getattr(summary, key, math.nan), ".1f")
        case "method":
            return f"{summary.method}{' (partial)' if summary.partial else ''}"
    value = getattr(summary, key)
    return _percent(value) if key.endswith("_share") else _number(value, ".2f") if key.endswith("_s") else str(value)


def _difference(found: stats.Paired) -> str:
    return "-" if found.too_few else _estimate(found.difference, found.ci95, "+z.1f", 100)


def _ratio(found: stats.Ratio) -> str:
    return "-" if found.too_few else _estimate(found.value, found.ci95, ".2f", 1)


def _estimate(value: float, ci95: stats.Interval, form: str, scale: float) -> str:
    """A number with its interval; "-" for either where there is none."""
    if math.isnan(value):
        return "-"
    low, high = (scale * bound for bound in ci95)
    return f"{scale * value:{form}} " + ("[-]" if math.isnan(low) else f"[{low:{form}}, {high:{form}}]")


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _percent(value: float) -> str:
    return _number(100 * value, ".1f")


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _conditions(summaries: Sequence[Summary]) -> list[str]:
    first = summaries[0]
    told = first.conditions
    lines = [
        f"{first.bench}, pair {first.pair}, preset {first.preset}: {counted(first.n, 'problem')} x "
        f"{counted(first.samples, 'sample')}, concurrency {first.concurrency}, budget {first.budget_tokens} thinking tokens.",
        f"Models: base {told.models.base}, small {told.models.small}. GPU: {told.gpu}. "
        f"sglang {told.versions.get('sglang', UNKNOWN)}."
        + "".join(f" {counted(count, 'replica')} of {role}." for role, count in (told.replicas or {}).items()),
        f"Rows sha256 {told.dataset_sha256[:12]}, judge prompt sha256 {told.prompts.get('judge', UNKNOWN)[:12]}.",
    ]
    lines += _of_replay(first) if isinstance(first, ReplaySummary) else [OF_ACCURACY]
    lines += [
        f"{summary.method}: {summary.loops} of {counted(summary.trajectories, 'thought')} ended for going round in circles."
        for summary in summaries
        if summary.loops
    ]
    lines += [
        f"{summary.method}: at most {counted(summary.most_at_once, 'trajectory', 'trajectories')} ran side by side: its numbers "
        f"are not those of concurrency {summary.concurrency}."
        for summary in summaries
        if summary.most_at_once is not None and summary.most_at_once < summary.concurrency
    ]
    lines += [
        f"{summary.method}: base's decode steps gave {summary.accept_length_mean:.2f} tokens each "
        "(token-level speculation)."
        for summary in summaries
        if summary.accept_length_mean
    ]
    lines += [
        f"{summary.method}: requests were tried again {counted(summary.retries, 'time')}; its seconds hold these waits."
        for summary in summaries
        if summary.retries
    ]
    return lines + [_warning(s) for s in summaries if s.judged_steps and s.label_mass_mean < 0.5]


def _warning(summary: Summary) -> str:
    binary = summary.policy.get("judge") == "binary"
    asked, template = ("yes or no", "judge_binary") if binary else ("digits", "judge")
    return (
        f"Warning: {summary.method}: the judge put only {100 * summary.label_mass_mean:.0f} % of its probability on {asked}; "
        f"its template (prompts/{template}.txt, {template}_answer.txt) is not understood."
    )


def _of_replay(summary: ReplaySummary) -> list[str]:
    trace, memory = summary.trace, _held(summary.memory or Memory())
    lines = [
        f"Trace: {counted(trace.steps, 'step')} of {trace.step_tokens_median:g} tokens (median; {trace.step_tokens_max} at "
        f"most), thoughts of {trace.thinking_tokens_mean:.0f} (mean; {trace.thinking_tokens_max} at most), prompts of "
        f"{trace.prompt_tokens_mean:.0f}, answers of {trace.answer_tokens_mean:.0f}.",
        "Lengths and verdicts are the trace's; base and small alone write a thought of the same steps. Tokens are per "
        "trajectory, small's include the discarded ones; tokens/s counts kept thinking and answer tokens.",
    ]
    return [*lines, f"Memory: {memory}."] if memory else lines


def _held(memory: Memory) -> str:
    """What the engines held in memory; "" where nothing is known."""
    parts = []
    for role, own in (("base", memory.base), ("small", memory.small)):
        said = [f"{own.weights_gb:.2f} GB weights"] if own.weights_gb is not None else []
        said += [f"{own.cache_gb:.2f} GB cache"] if own.cache_gb is not None else []
        said += [f"room for {own.cache_tokens} tokens"] if own.cache_tokens is not None else []
        said += [f"{own.resident_gb:.2f} GB resident"] if own.resident_gb is not None else []
        if said:
            parts.append(f"{role} {', '.join(said)}")
    if memory.gpu_used_gb:
        parts.append(f"in use on the GPUs {', '.join(f'{used:.1f} GB' for used in memory.gpu_used_gb)}")
    return "; ".join(parts)


def _samples(names: Sequence[str], summaries: Sequence[Summary]) -> list[str]:
    """pass@k and maj@k, where there are several samples a problem."""
    lines = []
    for name, summary in zip(names, summaries, strict=True):
        kinds = ("pass", summary.pass_at_k, summary.pass_at_k_ci95), ("maj", summary.maj_at_k, summary.maj_at_k_ci95)
        words = [
            f"{kind}@{k} {_estimate(value, bounds[k], '.1f', 100)} %"
            for kind, values, bounds in kinds
            for k, value in values.items()
        ]
        if words:
            lines.append(f"{name}: {', '.join(words)}.")
    return lines


def _sign_tests(names: Sequence[str], beside: Sequence[AgainstBase | None]) -> list[str]:
    """Where few problems tell two methods apart, the interval is rough: the exact test stands beside it."""
    return [
        f"{name} against base, of {counted(paired.n, 'problem')}: better on {paired.better}, worse on {paired.worse}, "
        f"exact sign test p = {paired.sign_p:.2g}."
        for name, pairing in zip(names, beside, strict=False)
        if pairing is not None and (paired := pairing.accuracy) and not paired.too_few
    ]
