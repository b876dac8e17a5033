"""Owns the summaries in run folders, made anew from the records. Knows no engines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from sgl_specreason.results.folder import rewrite_summary
from sgl_specreason.results.lines import Outcome
from sgl_specreason.results.summary import Run, against_base, knobs, load_runs
from sgl_specreason.results.table import comparison


def written(folder: Path, known: Mapping[Path, list[Outcome]] | None = None) -> list[Run]:
    """The runs in `folder` as they stand there, after writing their summaries. What is `known` of a run is not read again."""
    known = known or {}
    runs = [run.with_outcomes(known[run.path]) if run.path in known else run for run in load_runs(folder)]
    write(folder, runs)
    return runs


def write(folder: Path, runs: Sequence[Run]) -> None:
    """Writes the summary of each of the runs in `folder`, and that of all if there are several."""
    for run in runs:
        rewrite_summary(run.path, msgspec.to_builtins(run.summary), comparison([run], wide=True).markdown())
    if [run.path for run in runs] != [folder]:
        first = runs[0].summary
        entries = [
            msgspec.to_builtins(run.summary)
            | ({"vs_base": asdict(pairing)} if pairing else {})
            | ({"knobs": values} if values else {})
            for run, pairing, values in zip(runs, against_base(runs), knobs(runs), strict=True)
        ]
        partial = any(run.summary.partial for run in runs)
        content: dict[str, Any] = {"bench": first.bench, "pair": first.pair, "partial": partial}
        if runs[0].varied:
            content["runs"] = entries
        else:
            content["methods"] = {run.method: entry for run, entry in zip(runs, entries, strict=True)}
        rewrite_summary(folder, content, comparison(runs, wide=True).markdown())
