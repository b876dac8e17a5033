"""How a command that a signal ends leaves: the exit code tells of the signal, the last words where everything is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sgl_specreason.command import interruptible
from sgl_specreason.errors import EngineGone, Interrupted, SpecReasonError, WriteError
from sgl_specreason.pasted import command


@pytest.mark.parametrize(
    "error", [Interrupted(Path("runs/one"), 143), EngineGone("base: gone"), WriteError("disk full")]
)
def test_the_last_words_of_a_run_are_the_command_that_goes_on(
    capsys: pytest.CaptureFixture[str], error: SpecReasonError
) -> None:
    """Issue 18: "go on with --resume RUN", and doing that said "--bench is missing"."""
    error.folder = Path("runs/one two")
    with pytest.raises(SystemExit) as left, interruptible("replay"):
        raise error
    assert left.value.code == (143 if isinstance(error, Interrupted) else 1)
    what = "interrupted" if isinstance(error, Interrupted) else str(error)
    words = f"error: {what}; finished trajectories are in runs/one two; go on with:\n"
    assert capsys.readouterr().err == f"{words}  specreason replay --resume 'runs/one two'\n"


def test_a_signal_before_there_is_a_folder_is_named_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, interruptible("replay"):
        raise KeyboardInterrupt
    assert left.value.code == 130
    assert capsys.readouterr().err == "error: interrupted before anything was run\n"


@pytest.mark.parametrize(
    ("called", "words"),
    [
        (["python3", "-m", "sgl_specreason.eval"], "python3 -m sgl_specreason report"),
        ([".venv/bin/python", "-m", "sgl_specreason", "eval"], ".venv/bin/python -m sgl_specreason report"),
        (["python", "/else/where/specreason", "eval"], "/else/where/specreason report"),
        (["python", "/else/where/specreason", "report", "sgl_specreason"], "/else/where/specreason report"),
        (["python", "plots/pareto.py"], "specreason report"),
    ],
)
def test_a_command_to_paste_is_called_as_the_running_one_was(
    called: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is activated, no `specreason` is found."""
    monkeypatch.setattr(sys, "orig_argv", called)
    monkeypatch.setattr(sys, "argv", called[1:])
    assert command("report", "a b") == f"{words} 'a b'"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [["eval", "--list"], ["eval", "--help"], ["report", "--help"]])
def test_a_full_device_is_said_in_one_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", f"sgl_specreason.{words[0]}", *words[1:]]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: what was printed could not be written: no space left there\n"
