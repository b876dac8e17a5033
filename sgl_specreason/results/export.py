"""Owns runs as CSV for pandas and spreadsheets (docs/runs.md has the columns): a row a trajectory, or a row a run."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sgl_specreason.results import labels
from sgl_specreason.results.lines import Outcome
from sgl_specreason.results.summary import Run, against_base
from sgl_specreason.results.transcript import plain

OF_RUN = ("run", "name", "method")
OF_TRAJECTORY = (
    "problem_id", "sample", "correct", "answer", "gold", "grader", "truncated", "stop_reason", "error", "latency_s", "start_s",
    "thinking_tokens", "answer_tokens", "tokens_base", "tokens_small", "tokens_small_kept", "tokens_discarded",
    "tokens_dropped", "tokens_salvaged", "steps_kept", "steps_by_small", "drafts", "accepted", "judged", "judge_requests",
    "prompt_tokens", "cached_tokens", "retries",
)  # fmt: skip
FORMULAS = tuple("=+-@\t\r")


def trajectories(runs: Sequence[Run]) -> Iterator[str]:
    """A line of titles, then one for each trajectory, also for those that failed."""
    yield _line([*OF_RUN, *OF_TRAJECTORY])
    for run, name in zip(runs, labels.names(runs), strict=True):
        for outcome in run.outcomes:
            yield _line([str(run.path), name, run.method, *_of(outcome)])


def _of(outcome: Outcome) -> Iterator[Any]:
    """Its cells; what a failed one does not have is empty."""
    for column in OF_TRAJECTORY:
        unknown = outcome.error is not None and column in ("correct", "truncated")
        yield None if unknown else getattr(outcome, column)


def table(runs: Sequence[Run]) -> Iterator[str]:
    """A line of titles, then one for each run: its summary, with a column for each value in it."""
    rows = []
    for run, name, pairing in zip(runs, labels.names(runs), against_base(runs), strict=True):
        values = {"run": str(run.path), "name": name, **_flat(run.summary)}
        rows.append(values | (_flat({"vs_base": asdict(pairing)}) if pairing else {}))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    yield _line(columns)
    yield from (_line([row.get(column) for column in columns]) for row in rows)


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Every value in there under its path: `policy.threshold`; of an interval `.low` and `.high`."""
    if hasattr(content, "__struct_fields__"):
        content = {name: getattr(content, name) for name in content.__struct_fields__}
    if isinstance(content, dict):
        parts = content.items()
    elif isinstance(content, tuple) and len(content) == 2:
        parts = {"low": content[0], "high": content[1]}.items()
    else:
        return {prefix: content}
    return {key: found for name, value in parts for key, found in _flat(value, f"{prefix}.{name}".lstrip(".")).items()}


def _line(cells: Sequence[Any]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(map(_cell, cells))
    return file.getvalue()


def _cell(value: Any) -> Any:
    """A value as both read it. Text that a spreadsheet would take for a formula gets an apostrophe, as there."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(FORMULAS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
