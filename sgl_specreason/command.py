"""Owns how every command ends when something is wrong: one line on stderr, and the exit code. Knows no options."""

import io
import sys
from typing import Any, NoReturn

import click

from sgl_specreason.errors import SpecReasonError, UsageError


class Command(click.Command):
    """A command whose bad words, found by click or raised as UsageError, are one line and exit code 2; other failures have 1."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Runs it and leaves the process."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name of bytes that are no text can be printed, too
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            fail(error.format_message(), error.exit_code)
        except click.Abort:
            fail("interrupted", 130)
        except SpecReasonError as error:
            fail(str(error), 2 if isinstance(error, UsageError) else 1)
        sys.exit(code)


def fail(message: str, code: int) -> NoReturn:
    """Leaves with the message on stderr; the user's own mistakes (code 2) are always one line."""
    click.echo(f"error: {one_line(message) if code == 2 else message}", err=True)
    sys.stdout.flush()
    sys.exit(code)


def one_line(text: str) -> str:
    """`text` with nothing in it that a terminal would obey: line breaks are blanks, other control characters escaped."""
    words = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)
