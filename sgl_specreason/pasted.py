"""Owns the commands that a message shows to be pasted: how this program is called here, and what to do with runs next."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from sgl_specreason.method.policy import is_alone
from sgl_specreason.results.summary import Run

NAME = "specreason"


def command(verb: str, *words: str | Path) -> str:
    """One of our commands, called as the running one was."""
    return shlex.join([*_program(), verb, *map(str, words)])


def _program() -> list[str]:
    """The console script where it was used, or nothing of ours was: a test, a figure's script; else the module."""
    package = __name__.partition(".")[0]
    if any(flag == "-m" and word.split(".")[0] == package for flag, word in pairwise(sys.orig_argv)):
        return [sys.orig_argv[0], "-m", package]
    script = Path(sys.argv[0])
    if script.name == NAME and not _is_found(script):
        return [str(script)]
    return [NAME]


def _is_found(script: Path) -> bool:
    """Whether the shell finds it by its name alone."""
    found = shutil.which(NAME)
    return found is not None and os.path.exists(script) and os.path.samefile(found, script)


def following(folders: Sequence[Path], runs: Sequence[Run], *, force: bool = False) -> str:
    """What to do next with these runs, which are in these folders; with `force` where they are compared by force."""
    first = runs[0]
    lines = [_resumed(folder, first) for folder in folders if _is_partial(folder, runs)]
    if problem := _problem(runs):
        lines.append(command("report", "--show", folders[0], problem))
    forced = ["--force"] if force else []
    if first.is_replay:
        lines.append(command("report", "--csv", *folders))
    else:
        lines.append(command("report", "--html", *folders, "-o", "page.html", *forced))
        lines.append(command("plot", "pareto", *folders, "-o", "pareto.svg", *forced))
        if any(run.varied for run in runs):
            lines.append(command("report", "--calibrate", *folders))
    return "\n".join(["Next:", *(f"  {line}" for line in lines)])


def _is_partial(folder: Path, runs: Sequence[Run]) -> bool:
    return any(run.summary.partial for run in runs if folder in (run.path, run.path.parent))


def _resumed(folder: Path, first: Run) -> str:
    return command("replay" if first.is_replay else "eval", "--resume", folder)


def _problem(runs: Sequence[Run]) -> str:
    """A trajectory to look at, of a method with two models where there is one."""
    found = [outcome for run in sorted(runs, key=lambda run: is_alone(run.method)) for outcome in run.outcomes]
    if not found:
        return ""
    return found[0].problem_id if found[0].sample == 0 else f"{found[0].problem_id}:{found[0].sample}"
