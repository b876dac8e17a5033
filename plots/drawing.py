"""Owns what every figure here shares: run folders in, one style, the conditions under it, SVG and PNG out, or PDF."""

import io
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sgl_specreason.command import Command
from sgl_specreason.errors import UsageError
from sgl_specreason.results import stats
from sgl_specreason.results.conditions import UNKNOWN
from sgl_specreason.results.summary import Run, differing, load_runs
from sgl_specreason.words import counted

plt.style.use(Path(__file__).with_name("specreason.mplstyle"))

TOO_FEW = f"fewer than {stats.FEW} problems: too few to say anything"

# Methods have one colour and one mark in every figure; what has neither takes the next of the cycle.
COLOURS = {
    "base": "#000000",
    "small": "#E69F00",
    "specreason": "#0072B2",
    "random": "#D55E00",
    "always": "#CC79A7",
    "base+decode": "#666666",
    "specreason+decode": "#56B4E9",
}
MARKS = {
    "base": "s",
    "small": "^",
    "specreason": "o",
    "random": "X",
    "always": "D",
    "base+decode": "P",
    "specreason+decode": "h",
}
PARTS = {
    "draft": "#E69F00",
    "self": "#F0E442",
    "judge": "#56B4E9",
    "regenerate": "#000000",
    "think": "#009E73",
    "answer": "#CC79A7",
    "waiting": "#BBBBBB",
}


def read(
    folders: Iterable[Path], *, force: bool = False, over: Collection[str] = (), replays: bool = False
) -> list[Run]:
    """The runs of these folders. Raises UsageError, naming the keys, where their conditions differ and `force` is not given.

    What a figure is drawn `over` may differ. One of seconds alone can be of `replays`.
    """
    folders = list(folders)
    runs = [run for folder in folders for run in load_runs(folder)]
    if not replays and any(run.is_replay for run in runs):
        raise UsageError("a replay has no answers and is not drawn; specreason report shows its table")
    varied = runs[0].varied if len(folders) == 1 else ()
    if not force and (differ := [key for key in differing(runs, swept=varied) if key not in over]):
        raise UsageError(
            f"these runs do not belong on one figure: {', '.join(differ)} differ; --force draws them all the same"
        )
    return runs


def finished(runs: Sequence[Run]) -> list[Run]:
    """Those of the runs in which a trajectory has ended, the others have no numbers. Raises UsageError where there are none."""
    found = [run for run in runs if run.summary.trajectories]
    if not found:
        raise UsageError("these runs hold no finished trajectory")
    return found


def conditions(runs: Sequence[Run]) -> str:
    """What a figure must not be without: problems, samples, concurrency, budget, truncation, models, GPU, versions."""
    first = runs[0].summary
    about = first.conditions
    budgets = sorted({run.summary.budget_tokens for run in runs})
    levels = sorted({run.summary.concurrency for run in runs})
    truncated = max(run.summary.truncated_share for run in runs)
    failed = sum(run.summary.failed for run in runs)
    words = [
        f"{first.bench}, {counted(first.n, 'problem')} x {first.samples}, pair {first.pair}",
        f"concurrency {'/'.join(map(str, levels))}",
        f"budget {'/'.join(map(str, budgets))}, truncated at most {100 * truncated:.1f} %",
        f"GPU {about.gpu}, sglang {about.versions.get('sglang', UNKNOWN)}",
        f"judge prompt {about.prompts.get('judge', UNKNOWN)[:8]}",
    ]
    if first.n < stats.FEW:
        words.append(TOO_FEW)
    if failed:
        words.append(f"{failed} failed")
    if any(run.summary.partial for run in runs):
        words.append("partial")
    return "; ".join(words)


def caption(figure: Figure, runs: Sequence[Run], *more: str) -> None:
    """The conditions under the figure, at 7 pt."""
    noted(figure, conditions(runs), *more)


def noted(figure: Figure, *words: str) -> None:
    """Words under the figure, at 7 pt."""
    width = max(40, int(figure.get_figwidth() * 20))
    text = "\n".join(textwrap.wrap("; ".join(words) + ".", width))
    figure.supxlabel(text, fontsize=7, color="#444444", x=0.02, ha="left")


def bars(runs: Sequence[Run]) -> list[str]:
    """What bars of accuracies are; one problem has none."""
    return ["bars: 95 % intervals"] if any(run.summary.n > 1 for run in runs) else []


def save(figure: Figure, out: Path) -> list[Path]:
    """Writes `out` as SVG and as PNG, both or neither, or as PDF. Raises UsageError if it cannot."""
    files = named(out)
    contents = [_saved(figure, file.suffix.removeprefix(".")) for file in files]
    written: list[Path] = []
    try:
        for file, content in zip(files, contents, strict=True):
            with file.open("wb") as stream:
                written.append(file)
                stream.write(content)
    except OSError as error:
        for file in written:
            file.unlink(missing_ok=True)
        raise UsageError(f"-o {out}: cannot be written: {error.strerror}") from None
    return files


def named(out: Path) -> list[Path]:
    """The files that `-o` stands for. Raises UsageError for a name with another ending, or with none at all."""
    if out.name in ("", "..") or out.suffix not in ("", ".svg", ".png", ".pdf"):
        raise UsageError(
            f"-o {out}: must end in .svg or .png (both are written) or in .pdf, or have no ending (as .svg)"
        )
    if out.suffix == ".pdf":
        return [out]
    return [out.with_suffix(".svg"), out.with_suffix(".png")]


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file's content."""
    return _saved(figure, "svg")


UNDATED: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


def _saved(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata=UNDATED[kind])
    plt.close(figure)
    return file.getvalue()


def script(command: Callable[..., None]) -> Command:
    """A script's main function as a command with what every one of them takes: RUN..., -o and --force."""
    for option in (
        click.option("--force", is_flag=True, help="Draw runs of different conditions together."),
        click.option(
            "-o",
            "--out",
            type=click.Path(path_type=Path),
            required=True,
            metavar="FILE",
            help="NAME.svg or NAME.png: both are written; NAME.pdf: a PDF.",
        ),
        click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN..."),
    ):
        command = option(command)
    return click.command(cls=Command)(command)


def draw(figure: Callable[..., Figure], runs: Sequence[Path], out: Path, *, force: bool, **settings: Any) -> None:
    """Reads the folders, draws, saves and says where."""
    named(out)
    written(figure(read(runs, force=force), **settings), out)


def written(figure: Figure, out: Path) -> None:
    """Saves a figure and says where."""
    for file in save(figure, out):
        click.echo(file)
