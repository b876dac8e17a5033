"""Owns how runs are shown: the table in the terminal and in Markdown, and the command that makes it again from run folders.

Example: python -m sgl_specreason.report runs/math500-specreason-* runs/math500-base-*
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sgl_specreason.errors import SpecReasonError, UsageError
from sgl_specreason.records import rewrite_summary, strict
from sgl_specreason.rescore import rescored
from sgl_specreason.summary import AgainstBase, Run, against_base, differing, knobs, load_runs, swept

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


def table(
    summaries: Sequence[Record],
    beside: Sequence[AgainstBase | None] = (),
    settings: Sequence[dict[str, Any]] = (),
    *,
    markdown: bool = False,
) -> str:
    """One line per run, with the conditions under it: as aligned text, or as Markdown.

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
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |" if markdown else "  ".join(cells).rstrip())
        if number == 0 and markdown:
            rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            lines.append(f"| {' | '.join(rule)} |")
    notes = [*_conditions(summaries), *_samples(names, summaries), *_sign_tests(names, beside)]
    return "\n".join([*lines, "", *notes]) + "\n"


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


def show(runs: Sequence[Run], *, markdown: bool = False) -> str:
    """The table of these runs, paired with base where base is among them; conditions that differ are named under it."""
    varied = {key for run in runs for key in swept(run.path.parent)}
    notes = [
        f"Differs: {key}: {' | '.join(map(str, values))}\n" for key, values in differing(runs, swept=varied).items()
    ]
    summaries = [run.summary for run in runs]
    return table(summaries, against_base(runs), knobs(runs), markdown=markdown) + "".join(notes)


def written(folder: Path) -> list[Run]:
    """The runs in `folder` as they stand there, after writing each one's summary, and that of all if there are several."""
    runs = load_runs(folder)
    for run in runs:
        rewrite_summary(run.path, run.summary, show([run], markdown=True))
    if [run.path for run in runs] != [folder]:
        first = runs[0].summary
        entries = [
            run.summary | ({"vs_base": asdict(pairing)} if pairing else {}) | ({"knobs": values} if values else {})
            for run, pairing, values in zip(runs, against_base(runs), knobs(runs), strict=True)
        ]
        partial = any(run.summary["partial"] for run in runs)
        content = {"bench": first["bench"], "pair": first["pair"], "partial": partial}
        if swept(folder):
            content["runs"] = entries
        else:
            content["methods"] = {run.method: entry for run, entry in zip(runs, entries, strict=True)}
        rewrite_summary(folder, content, show(runs, markdown=True))
    return runs


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--force", is_flag=True, help="Show runs of different conditions together, the differences beside them.")
@click.option("--rescore", is_flag=True, help="Grade the stored answers again first, and write what changed.")
@click.option("--show", is_flag=True, help="Print one trajectory instead: --show RUN PROBLEM[:SAMPLE].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run, a line each.")
@click.option("--markdown", is_flag=True, help="The table as Markdown.")
@click.option("--calibrate", is_flag=True, help="What the judge's answers are worth, and a threshold for --risk.")
@click.option(
    "--risk",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=1.0,
    show_default=True,
    help="With --calibrate: points below base that are acceptable.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(50, 100, max_open=True),
    default=95.0,
    show_default=True,
    help="With --calibrate: how sure to be of that, %.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the Markdown there, too.")
def main(runs: tuple[Path, ...], out: Path | None, show: bool, **options: Any) -> None:
    """Prints the table of one run, or compares several, paired by problem; writes each run's summary anew.

    A folder with several methods counts as its runs. Needs no engine.
    """
    try:
        if show:
            click.echo(_trajectory(runs))
            return
        text, markdown = _report(runs, **options)
        if out is not None:
            try:
                out.write_text(markdown, encoding="utf-8")
            except OSError as error:
                raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from None
        click.echo(text, nl=False)
    except SpecReasonError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _trajectory(words: Sequence[Path]) -> str:
    from sgl_specreason.transcript import transcript

    if len(words) != 2:
        raise UsageError("--show wants a run folder and a problem: --show RUN PROBLEM[:SAMPLE]")
    return transcript(load_runs(words[0]), str(words[1]))


def _report(
    folders: Sequence[Path],
    *,
    force: bool,
    rescore: bool,
    as_json: bool,
    markdown: bool,
    calibrate: bool,
    risk: float,
    confidence: float,
) -> tuple[str, str]:
    """What is asked for, as it is printed and as Markdown."""
    found = [run for folder in folders for run in load_runs(folder)]
    varied = swept(folders[0]) if len(folders) == 1 else {}
    if (differ := differing(found, swept=varied)) and not force:
        raise UsageError(
            f"these runs do not compare: {', '.join(differ)} differ; --force shows them together all the same"
        )
    if rescore:
        for run in found:
            click.echo(rescored(run.path, run.config), err=True)
    runs = [run for folder in folders for run in written(folder)]
    if calibrate:
        from sgl_specreason.calibrate import calibration

        text = calibration(runs, risk=risk / 100, confidence=confidence / 100)
        return text, text
    table = show(runs, markdown=True)
    if as_json:
        lines = [
            json.dumps(strict(run.summary | {"run": str(run.path), "vs_base": pairing and asdict(pairing)})) + "\n"
            for run, pairing in zip(runs, against_base(runs), strict=True)
        ]
        return "".join(lines), table
    return table if markdown else show(runs), table


if __name__ == "__main__":
    main(prog_name="python -m sgl_specreason.report")
