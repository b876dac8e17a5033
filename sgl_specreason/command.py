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
from click.core import ParameterSource

from sgl_specreason.errors import ClientGone, EngineGone, Interrupted, SpecReasonError, UsageError, WriteError
from sgl_specreason.run.interruption import Interruption

if TYPE_CHECKING:
    from sgl_specreason.plan.plan import Plan
    from sgl_specreason.results.origin import Origin
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


class Group(Command, click.Group):
    """Commands under one name, each with a sentence and an example, of which none is imported before it is called."""

    def __init__(
        self, *args: Any, entries: dict[str, tuple[str, str]], command: Callable[[str], click.Command], **more: Any
    ) -> None:
        super().__init__(*args, subcommand_metavar="COMMAND ...", **more)
        self._entries, self._command = entries, command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._command(cmd_name) if cmd_name in self._entries else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises UsageError with the nearest names."""
        if args[0] not in self._entries and not args[0].startswith("-"):
            from sgl_specreason.typed import nearest

            raise UsageError(f"no command named {args[0]!r}{nearest(args[0], self._entries)}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for name, (sentence, example) in self._entries.items():
            formatter.write_paragraph()
            formatter.write(f"  {name.ljust(8)}{sentence}\n  {'':8}{ctx.command_path} {name} {example}\n")


def _leave_a_full_device() -> NoReturn:
    """Leaves where what was printed cannot be written: nothing may try again while Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    fail("what was printed could not be written: no space left there", 1)


@contextmanager
def interruptible(verb: str) -> Iterator[Interruption]:
    """Lets Ctrl-C and SIGTERM end a run of this command in good order; the last words say where it is and how it goes on."""
    interruption = Interruption()
    try:
        with interruption.handled():
            yield interruption
    except Interrupted as error:
        fail(f"interrupted; {_how_to_go_on(verb, error)}", error.code)
    except KeyboardInterrupt:
        fail("interrupted before anything was run", interruption.code)
    except (ClientGone, EngineGone, WriteError) as error:
        fail(f"{error}; {_how_to_go_on(verb, error)}" if error.folder else str(error), 1)


def _how_to_go_on(verb: str, error: SpecReasonError) -> str:
    from sgl_specreason.pasted import command

    context = click.get_current_context(silent=True)
    keyed = context and context.get_parameter_source("api_key") is ParameterSource.COMMANDLINE
    more = " (and the same --api-key)" if keyed else ""
    return f"finished trajectories are in {error.folder}; go on with{more}:\n  {command(verb, '--resume', str(error.folder))}"


def carry_out(
    plan: "Plan",
    kind: "type[Session]",
    interruption: Interruption,
    *,
    begun: "Origin",
    out: Path,
    resume: Path | None,
    access: "Access",
    beside: "Callable[[list[Run], Path, Callable[..., str]], list[str]] | None" = None,
) -> None:
    """Runs the plan in sessions of this kind and prints its table; leaves with exit code 1 where a trajectory failed.

    What `beside` says of the runs in `out` stands under it.

    Raises what `run.evaluate.run` does.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from sgl_specreason.pasted import command, following
    from sgl_specreason.results.table import comparison
    from sgl_specreason.run import evaluate

    folder, runs = evaluate.run(
        plan,
        out=out,
        resume=resume,
        begun=begun,
        access=access,
        interruption=interruption,
        say=say,
        kind=kind,
    )
    click.echo(comparison(runs).text())
    for line in beside(runs, out, command) if beside else ():
        click.echo(line)
    click.echo(following([folder], runs))
    click.echo(f"Run folder: {folder}")
    if failed := sum(run.summary.failed for run in runs):
        again = command(begun.command, "--resume", folder)
        fail(f"{failed} trajectories failed; this runs them again:\n  {again}", 1)


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
