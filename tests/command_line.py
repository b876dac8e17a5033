"""The commands as a user gives them, called in this process: imports and start-up are paid for once."""

import importlib
from pathlib import Path

import click
from click.testing import CliRunner, Result

from sgl_specreason import eval, report

COMMANDS: dict[str, click.Command] = {"eval": eval.main, "report": report.main} | {
    name: importlib.import_module(name).main for name in ("pareto", "knobs", "steps", "judge", "load")
}


def invoke(command: str, *words: str | Path) -> Result:
    """What the command printed and its exit code; an exception that it lets through is the test's."""
    return CliRunner().invoke(COMMANDS[command], [str(word) for word in words], catch_exceptions=False)
