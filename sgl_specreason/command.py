"""Owns how a command that runs something does so, and how every command ends: its last words and the exit code.

Knows no options.
"""

import errno
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sgl_specreason.errors import Interrupted, SpecReasonError, UsageError
from sgl_specreason.run.interruption import Interruption

if TYPE_CHECKING:
    from sgl_specreason.plan.plan import Plan
    from sgl_specreason.results.summary import Run
    from sgl_specreason.run.serving import Access
    from sgl_specreason.run.session import Session

_SPEAKING = threading.Lock()


class Command(click.Command):
    """A command whose bad words, found by click or raised as UsageError, are one line and exit code 2; other failures have 1."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.context_settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Runs it and leaves the process."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name of bytes that are no text can be printed, too
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
            sys.stdout.flush()
        except click.ClickException as error:
            fail(error.format_message(), error.exit_code)
        except click.Abort:
            fail("interrupted", 130)
        except SpecReasonError as error:
            fail(str(error), 2 if isinstance(error, UsageError) else 1)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _leave_a_full_device()
        sys.exit(code)


def _leave_a_full_device() -> NoReturn:
    """Leaves where what was printed cannot be written: nothing may try again while Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    fail("what was printed could not be written: no space left there", 1)


@contextmanager
def interruptible(what: str) -> Iterator[Interruption]:
    """Lets Ctrl-C and SIGTERM end `what` ("the run") in good order; the last words say where it is saved."""
    interruption = Interruption()
    try:
        with interruption.handled():
            yield interruption
    except Interrupted as error:
        fail(
            f"interrupted; finished trajectories are in {error.folder}; go on with --resume {error.folder}", error.code
        )
    except KeyboardInterrupt:
        fail(f"interrupted before {what} began", interruption.code)


def carry_out(
    plan: "Plan",
    kind: "type[Session]",
    interruption: Interruption,
    *,
    out: Path,
    resume: Path | None,
    access: "Access",
    beside: "Callable[[list[Run], Path], list[str]] | None" = None,
) -> None:
    """Runs the plan in sessions of this kind and prints its table; leaves with exit code 1 where a trajectory failed.

    What `beside` says of the runs in `out` stands under it.

    Raises what `run.evaluate.run` does.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from sgl_specreason.results.table import comparison
    from sgl_specreason.run import evaluate

    folder, runs = evaluate.run(
        plan,
        out=out,
        resume=resume,
        access=access,
        interruption=interruption,
        say=say,
        kind=kind,
    )
    click.echo(comparison(runs).text())
    for line in beside(runs, out) if beside else ():
        click.echo(line)
    click.echo(f"Run folder: {folder}")
    if failed := sum(run.summary.failed for run in runs):
        fail(f"{failed} trajectories failed; --resume {folder} runs them again", 1)


def say(line: str) -> None:
    """Prints a line of progress on stderr: whole, also where several threads have something to say."""
    with _SPEAKING:
        click.echo(line, err=True)


def fail(message: str, code: int) -> NoReturn:
    """Leaves with the message on stderr; the user's own mistakes (code 2) are always one line."""
    click.echo(f"error: {one_line(message) if code == 2 else message}", err=True)
    sys.stdout.flush()
    sys.exit(code)


def one_line(text: str) -> str:
    """`text` with nothing in it that a terminal would obey: line breaks are blanks, other control characters escaped."""
    words = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)
