"""Owns the one command that has all others: `specreason`, or `python -m sgl_specreason`. Imports none until it is called.

Example: specreason eval --bench demo --limit 6
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from sgl_specreason.command import Group

COMMANDS = {
    "eval": ("Runs a benchmark: SpecReason beside its baselines.", "--bench demo --limit 6"),
    "report": ("Shows runs again: a table, one trajectory, a page, CSV.", "RUN"),
    "replay": (
        "Measures what a pair costs here, without answers.",
        "--synthetic --acceptance 0.6 --pair demo --limit 4",
    ),
    "plot": ("Draws runs as SVG and PNG, or as PDF.", "pareto RUN -o pareto.pdf"),
    "serve": ("Serves the method behind an ordinary API.", "--pair demo"),
    "judge": ("Measures what a judge is worth on labelled steps.", "--bench demo --limit 40"),
}
"""Each with what it does and the words of an example."""


def _is_there(name: str) -> bool:
    """Whether there is such a module and it has a command."""
    found = find_spec(f"sgl_specreason.{name}")
    return found is not None and "\ndef main(" in Path(str(found.origin)).read_text(encoding="utf-8")


def _command(name: str) -> click.Command:
    found: click.Command = import_module(f"sgl_specreason.{name}").main
    return found


@click.command(
    cls=Group,
    entries={name: words for name, words in COMMANDS.items() if _is_there(name)},
    command=_command,
    epilog="RUN is a run folder: the last line of eval names it. COMMAND --help tells all of a command.",
)
@click.version_option(package_name="sgl-specreason", message="%(prog)s %(version)s")
def main() -> None:
    """Speculative reasoning: a small model drafts each step of a thought, a large one scores it and rewrites the bad ones."""


if __name__ == "__main__":
    main(prog_name="python -m sgl_specreason")
