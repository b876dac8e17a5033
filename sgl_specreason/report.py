"""Owns the command `specreason report`: runs shown again as a table, a trajectory, CSV, a calibration, a page.

Example: python -m sgl_specreason.report runs/math500-specreason-* runs/math500-base-*
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgspec

from sgl_specreason.command import Command, one_line
from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.pasted import command, following
from sgl_specreason.results.certify import CONFIDENCE, RISK
from sgl_specreason.results.folder import held, strict
from sgl_specreason.results.labels import differences
from sgl_specreason.results.records import CONFIG
from sgl_specreason.results.rescore import rescored
from sgl_specreason.results.summaries import write
from sgl_specreason.results.summary import Run, against_base, load_runs
from sgl_specreason.results.table import comparison
from sgl_specreason.results.transcript import plain, transcript


@click.command(cls=Command)
@click.argument("words", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@click.option("--force", is_flag=True, help="Show runs of different conditions together, the differences beside them.")
@click.option("--rescore", is_flag=True, help="Grade the stored answers again first, and write what changed.")
@click.option("--wide", is_flag=True, help="The table with all its columns, not in 100 characters.")
@click.option("--show", is_flag=True, help="Print one trajectory instead: --show RUN PROBLEM[:SAMPLE].")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run, a line each.")
@click.option("--csv", "as_csv", is_flag=True, help="A row for each trajectory, for pandas and spreadsheets.")
@click.option("--csv-runs", is_flag=True, help="The same with a row for each run: all that summary.json has.")
@click.option("--markdown", is_flag=True, help="The table as Markdown.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="What the judge's answers are worth, and a threshold for --risk; of a published trace, what it said.",
)
@click.option(
    "--risk",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=100 * RISK,
    show_default=True,
    help="With --calibrate: points below base that are acceptable. The smaller, the more problems it takes: 1 takes 347, 2 "
    "take 173, 5 take 68.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(50, 100, max_open=True),
    default=100 * CONFIDENCE,
    show_default=True,
    help="With --calibrate: how sure to be of that, %.",
)
@click.option("--verbose", is_flag=True, help="With --calibrate: what the judge said in each run, too.")
@click.option("--html", is_flag=True, help="Write a page instead, one file to look at the runs in a browser: needs -o.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the page or the CSV there; of the table, Markdown beside what is printed.",
)
def main(
    words: tuple[str, ...], out: Path | None, show: bool, html: bool, force: bool, rescore: bool, **options: Any
) -> None:
    """Prints the table of one run, or compares several, paired by problem; writes each run's summary anew.

    A folder with several methods counts as its runs. Needs no engine.
    """
    forms = {
        "--show": show,
        "--html": html,
        "--calibrate": options["calibrate"],
        "--json": options["as_json"],
        "--csv": options["as_csv"],
        "--csv-runs": options["csv_runs"],
    }
    if len(asked := [name for name, given in forms.items() if given]) > 1:
        raise UsageError(f"give one of {' and '.join(asked)}")
    if options["verbose"] and not options["calibrate"]:
        raise UsageError("--verbose is for --calibrate")
    if html and out is None:
        raise UsageError("--html wants a file to write: -o page.html")
    if out is not None:
        _check_free(out)
    if show:
        click.echo(_trajectory(words))
        return
    _check_kinds(words)
    if options["calibrate"] and (text := _of_traces(words)) is not None:
        if out is not None:
            _write(out, text)
        click.echo(plain(text), nl=False)
        return
    folders = {Path(word): load_runs(Path(word)) for word in words}
    with _alone(folders, insists=rescore) as is_alone:
        runs = _read(
            folders, force=force, rescore=rescore, answers="--html" * html or "--calibrate" * options["calibrate"]
        )
        if html and out is not None:
            from sgl_specreason.results.page.build import page

            _write(out, page(runs))
            click.echo(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
            return
        text, kept = _report(list(folders), runs, force=force, **options)
        if is_alone:
            for folder, own in folders.items():
                write(folder, own)
        if out is not None:
            _write(out, kept)
        if out is None or not (options["as_csv"] or options["csv_runs"]):
            click.echo(plain(text), nl=False)


def _check_kinds(words: Sequence[str]) -> None:
    """Raises UsageError where another command shows what is asked for."""
    from sgl_specreason.judging.folder import is_folder

    for word in words:
        if is_folder(Path(word)):
            raise UsageError(f"{word}: what a judge is worth is shown by {command('judge', '--show', word)}")


def _of_traces(words: Sequence[str]) -> str | None:
    """What published traces (eval/traces) say of their judges; None where the words are run folders."""
    from sgl_specreason.plan import traces
    from sgl_specreason.results.published import calibration

    found = [traces.is_name(word) for word in words]
    if not any(found):
        return None
    if not all(found):
        raise UsageError("a published trace does not compare with a run; show them one by one")
    return "\n".join(calibration(traces.load(word)) for word in words)


@contextmanager
def _alone(folders: Collection[Path], *, insists: bool) -> Iterator[bool]:
    """Keeps other processes from writing these runs. Where one does already that is said, or where it `insists` a RecordError."""
    with ExitStack() as stack:
        is_alone = True
        try:
            stack.enter_context(held(*folders))
        except RecordError as error:
            if insists:
                raise
            is_alone = False
            click.echo(f"{one_line(str(error))}; no summary is written", err=True)
        yield is_alone


def _check_free(out: Path) -> None:
    """Raises UsageError where `out` cannot be written, or is a run's own."""
    if not os.path.isdir(out.parent):
        raise UsageError(f"-o {out}: cannot be written: there is no folder {out.parent}")
    if os.path.isdir(out):
        raise UsageError(f"-o {out}: is a folder")
    try:
        out.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"-o {out}: cannot be written: {error.strerror}") from None
    if (out.parent / CONFIG).exists() and out.suffix in (".json", ".jsonl"):
        raise UsageError(f"-o {out}: is the run's own; give another name")


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"-o {out}: cannot be written: {error.strerror}") from None


def _trajectory(words: Sequence[str]) -> str:
    if len(words) != 2:
        raise UsageError("--show wants a run folder and a problem: --show RUN PROBLEM[:SAMPLE]")
    return transcript(load_runs(Path(words[0])), words[1])


def _read(folders: Mapping[Path, list[Run]], *, force: bool, rescore: bool, answers: str) -> list[Run]:
    """The runs of these folders, graded again if asked to. Raises UsageError, naming the keys, if they do not compare."""
    found = [run for runs in folders.values() for run in runs]
    _check_replays(found, answers="--rescore" if rescore else answers)
    varied = found[0].varied if len(folders) == 1 else ()
    if (differ := differences(found, frozenset(varied))) and not force:
        words = "; ".join(differ)
        raise UsageError(f"these runs do not compare: {words}; --force shows them together all the same")
    if rescore:
        for run in found:
            click.echo(rescored(run.path, run.config), err=True)
    return found


def _check_replays(runs: Sequence[Run], *, answers: str) -> None:
    """Raises UsageError where a replay would pass for a run, or is asked for answers by this option."""
    replays = [run.is_replay for run in runs]
    if any(replays) and not all(replays):
        raise UsageError("a replay has no answers and does not compare with a run; show them one by one")
    if any(replays) and answers:
        raise UsageError(f"{answers}: a replay has no answers")


def _report(
    folders: Sequence[Path],
    runs: Sequence[Run],
    *,
    force: bool,
    wide: bool,
    as_json: bool,
    as_csv: bool,
    csv_runs: bool,
    markdown: bool,
    calibrate: bool,
    risk: float,
    confidence: float,
    verbose: bool,
) -> tuple[str, str]:
    """What is asked for, as it is printed and as it is written to a file."""
    if calibrate:
        from sgl_specreason.results.recommend import calibration

        text = calibration(runs, risk=risk / 100, confidence=confidence / 100, verbose=verbose)
        return text, text
    if as_csv or csv_runs:
        from sgl_specreason.results import export

        text = "".join(export.trajectories(runs) if as_csv else export.table(runs))
        return text, text
    table = comparison(runs, wide=wide)
    if as_json:
        return _json(runs), table.markdown()
    if markdown:
        return table.markdown(), table.markdown()
    return f"{table.text()}\n{following(folders, runs, force=force)}\n", table.markdown()


def _json(runs: Sequence[Run]) -> str:
    lines = [
        msgspec.to_builtins(run.summary) | {"run": str(run.path), "vs_base": pairing and asdict(pairing)}
        for run, pairing in zip(runs, against_base(runs), strict=True)
    ]
    return "".join(json.dumps(strict(line)) + "\n" for line in lines)


if __name__ == "__main__":
    main(prog_name="python -m sgl_specreason.report")
