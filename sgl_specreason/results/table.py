"""Owns the table that compares runs: its columns and their cells. What stands under them is in `conditions.py`."""

import math
from collections.abc import Sequence

from sgl_specreason.results import labels
from sgl_specreason.results.conditions import notes
from sgl_specreason.results.estimates import difference, estimate, number, percent, ratio
from sgl_specreason.results.layout import WIDTH, Table
from sgl_specreason.results.schema import ReplaySummary, Summary
from sgl_specreason.results.summary import AgainstBase, Run, against_base

Columns = tuple[tuple[str, str], ...]
SHORT: Columns = (
    ("name", "method"),
    ("n", "n"),
    ("accuracy", "accuracy %"),
    ("difference", "vs base"),
    ("latency_mean_s", "mean s"),
    ("speed_up", "speed-up"),
    ("offloaded_steps_share", "by small"),
    ("truncated_share", "truncated"),
    ("failed", "failed"),
)
WIDE: Columns = (
    ("name", "method"),
    ("n", "n"),
    ("accuracy", "accuracy % (95 %)"),
    ("difference_ci95", "vs base (95 %)"),
    ("truncated_share", "truncated %"),
    ("no_answer_share", "no answer %"),
    ("latency_mean_s", "mean s"),
    ("speed_up", "speed-up (95 %)"),
    ("latency_p95_s", "p95 s"),
    ("thinking_base", "think base"),
    ("thinking_small", "think small"),
    ("offloaded_steps_share", "by small %"),
    ("judged", "judged %"),
    ("tokens_discarded", "discarded"),
    ("cached_share", "cached %"),
    ("failed", "failed"),
)
SHORT_OF_REPLAYS: Columns = (
    ("name", "method"),
    ("n", "n"),
    ("latency_mean_s", "mean s"),
    ("speed_up", "speed-up"),
    ("throughput_tokens_per_s", "tokens/s"),
    ("acceptance_share", "accepted %"),
    ("tokens_discarded", "discarded"),
    ("failed", "failed"),
)
WIDE_OF_REPLAYS: Columns = (
    ("name", "method"),
    ("n", "n"),
    ("latency_mean_s", "mean s"),
    ("speed_up", "speed-up (95 %)"),
    ("latency_p95_s", "p95 s"),
    ("throughput_tokens_per_s", "tokens/s"),
    ("thinking_base", "think base"),
    ("thinking_small", "think small"),
    ("acceptance_share", "accepted %"),
    ("tokens_discarded", "discarded"),
    ("cached_share", "cached %"),
    ("failed", "failed"),
)
BESIDE_BASE = {"difference", "difference_ci95", "speed_up"}
WHERE_NOT_0 = {"truncated_share", "failed"}


def comparison(runs: Sequence[Run], *, wide: bool = False) -> Table:
    """The table of these runs, paired with base where base is among them; conditions that differ are named under it.

    In at most WIDTH columns, unless it is to be `wide` and have all.
    """
    summaries, beside, names = [run.summary for run in runs], against_base(runs), labels.names(runs)
    replays = isinstance(summaries[0], ReplaySummary)
    columns = _columns(summaries, beside, wide=wide, replays=replays)
    rows = [
        [_cell(name, summary, pairing, key) for key, _ in columns]
        for name, summary, pairing in zip(names, summaries, beside, strict=True)
    ]
    return Table(
        rows=[[title for _, title in columns], *rows],
        notes=notes(runs, names, beside, wide=wide),
        title=_title(summaries[0]) if isinstance(summaries[0], ReplaySummary) else "",
        width=None if wide else WIDTH,
    )


def _columns(
    summaries: Sequence[Summary], beside: Sequence[AgainstBase | None], *, wide: bool, replays: bool
) -> list[tuple[str, str]]:
    """Those that have something to say."""
    columns = (WIDE_OF_REPLAYS if wide else SHORT_OF_REPLAYS) if replays else (WIDE if wide else SHORT)
    hidden = set() if any(beside) else set(BESIDE_BASE)
    hidden |= set() if wide else {key for key in WHERE_NOT_0 if not any(getattr(s, key) for s in summaries)}
    return [(key, title) for key, title in columns if key not in hidden]


def _title(replay: ReplaySummary) -> str:
    weights = ", with random weights" if replay.dummy_weights else ""
    return f"Replay of {replay.trace.origin}{weights}: no answers, no accuracy"


def _cell(name: str, summary: Summary, pairing: AgainstBase | None, key: str) -> str:
    each = max(summary.trajectories, 1)
    match key:
        case "name":
            return f"{name}{' (partial)' if summary.partial else ''}"
        case "accuracy":
            return estimate(summary.accuracy, summary.accuracy_ci95, ".1f", 100)
        case "difference" | "difference_ci95":
            found = pairing and pairing.accuracy
            return difference(found, with_interval=key == "difference_ci95") if found else "-"
        case "speed_up":
            return ratio(pairing.speed_up) if pairing else "-"
        case "thinking_base":
            return f"{summary.tokens_base / each:.1f}"
        case "thinking_small":
            return f"{summary.tokens_small / each:.1f}"
        case "tokens_discarded":
            return f"{summary.tokens_discarded / each:.1f}"
        case "judged":
            return percent(summary.judged_steps / summary.drafts) if summary.drafts else "-"
        case "acceptance_share":
            return percent(summary.acceptance) if summary.drafts else "-"
        case "throughput_tokens_per_s":
            return number(getattr(summary, key, math.nan), ".1f")
    value = getattr(summary, key)
    return percent(value) if key.endswith("_share") else number(value, ".2f") if key.endswith("_s") else str(value)
