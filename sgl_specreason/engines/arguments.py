"""Owns whether SGLang knows the arguments that somebody else has written for it, by its own parser. Starts nothing.

SGLang takes seconds to import: nobody asks who has no such arguments.
"""

import argparse
import difflib
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from sgl_specreason.errors import SHOWN, UsageError

MODEL, KEY, PORT = "the model", "the key", "0"
OURS = {"model_path": MODEL, "api_key": KEY, "port": int(PORT)}


class _Parser(argparse.ArgumentParser):
    """One whose complaints are UsageErrors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"SGLang {_version()}: {message if len(message) <= SHOWN else f'{message[:SHOWN]}...'}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise UsageError("an argument that only prints something and ends")


def check(words: Sequence[str]) -> None:
    """Raises UsageError for what SGLang would refuse of these arguments, or that is not for others than us to set."""
    with warnings.catch_warnings(action="ignore"):  # those of what it imports are not for the user
        from sglang.srt.server_args import ServerArgs

    parser = _Parser(add_help=False)
    ServerArgs.add_cli_args(parser)
    ours = ["--model-path", MODEL, "--api-key", KEY, "--port", PORT]
    found, rest = parser.parse_known_args([*ours, *words])
    if rest:
        raise UsageError(_unknown(rest, parser))
    for name, value in OURS.items():  # a beginning of their names would do, too
        if getattr(found, name) != value:
            raise UsageError(f"--{name.replace('_', '-')} is not for a pair to set")


def _unknown(rest: Sequence[str], parser: Any) -> str:
    """What SGLang does not know, and what is close to it."""
    word = next((word for word in rest if word.startswith("-")), None)
    if word is None:
        return f"{rest[0]}: a value without an argument"
    name = word.partition("=")[0]
    close = difflib.get_close_matches(name, parser._option_string_actions, n=2, cutoff=0.6)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"SGLang {_version()} has no {name}{meant}"


def _version() -> str:
    from importlib.metadata import version

    return version("sglang")
