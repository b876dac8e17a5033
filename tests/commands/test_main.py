"""The one command that has all others: what it lists is there, answers at once, and ends as the command itself does."""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click
import pytest
from checkout import ROOT
from click.testing import CliRunner, Result
from run_folders import answers, run_folder, settings

from sgl_specreason.__main__ import COMMANDS, main
from sgl_specreason.plot import FIGURES

HEAVY = {"sglang", "torch", "transformers", "datasets", "sympy", "matplotlib", "numpy"}
PROGRAM = f"""
import runpy, sys
try:
    runpy.run_module('sgl_specreason', run_name='__main__', alter_sys=True)
except SystemExit as end:
    sys.exit(str(end.code) + ' ' + str(sorted({HEAVY} & sys.modules.keys())))
"""


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="specreason", catch_exceptions=False)


def listed() -> list[str]:
    context = click.Context(main)
    return main.list_commands(context)  # type: ignore[attr-defined, no-any-return]


def test_alone_it_lists_the_commands_with_an_example_each() -> None:
    done = invoke()
    assert (done.exit_code, done.stdout) == (0, invoke("--help").stdout)
    for name in listed():
        sentence, example = COMMANDS[name]
        assert f"{name.ljust(8)}{sentence}" in done.stdout
        assert f"          specreason {name} {example}\n" in done.stdout


def test_what_is_listed_is_there_and_nothing_else() -> None:
    assert {"eval", "report", "replay", "plot"} <= set(listed())
    for name in COMMANDS:
        try:
            module = import_module(f"sgl_specreason.{name}")
        except ModuleNotFoundError:
            module = None
        assert hasattr(module, "main") == (name in listed())


@pytest.mark.parametrize("name", [name for name in listed() if "RUN" not in COMMANDS[name][1]])
def test_an_example_parses(name: str) -> None:
    import_module(f"sgl_specreason.{name}").main.make_context("specreason", COMMANDS[name][1].split())


@pytest.mark.parametrize("words", [[], ["--help"], ["eval", "--help"], ["replay", "--help"], ["plot"], ["evla"]])
def test_quick_answers_import_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == f"{2 if words == ['evla'] else 0} []"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evla", "--bench", "demo"], "no command named 'evla'; did you mean eval or replay?"),
        (["plot", "paretto"], "no command named 'paretto'; did you mean pareto?"),
        (["eval", "--bench", "dmo"], "no bench named 'dmo'; did you mean demo?"),
        (["eval", "--limit", "x"], "Invalid value for '--limit': 'x' is not a valid integer."),
        (["--bench", "demo"], "No such option '--bench'."),
    ],
)
def test_bad_words_are_one_line(words: list[str], said: str) -> None:
    done = invoke(*words)
    assert (done.exit_code, done.stderr) == (2, f"error: {said}\n")


def test_the_module_is_the_same_command(tmp_path: Path) -> None:
    """Nor does it run what lies in the working directory."""
    (tmp_path / "json.py").write_text("raise SystemExit('a file that only lies there was run')")
    done = subprocess.run(
        [sys.executable, "-m", "sgl_specreason", "report", "nowhere"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "error: nowhere: not a run folder: there is no such folder\n")


def test_the_console_script_is_this_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert resolve_name(scripts["specreason"]) is main


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_as_pdf(name: str, tmp_path: Path) -> None:
    """And then nothing else is written."""
    steps = [{"by": "small", "text": "b", "tokens": 7, "accepted": True, "digits": [0.1] * 10, "score": 9}]
    records = [one | {"steps": steps} for one in answers(True, False, True, True)]
    for number in (3, 5):
        policy = settings()["policy"] | {"threshold": float(number)}
        varied: dict[str, Any] = {"concurrency": number} if name == "load" else {"policy": policy}
        run_folder(tmp_path / "top" / str(number), records, **varied)
    done = invoke("plot", name, tmp_path / "top", "-o", tmp_path / "figure.pdf")
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["figure.pdf"]
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert invoke("plot", name, tmp_path / "top", "-o", tmp_path / "figure.gif").exit_code == 2
