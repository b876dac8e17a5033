"""How a command that a signal ends leaves: the exit code tells of the signal, the last words where everything is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sgl_specreason.command import interruptible
from sgl_specreason.errors import Interrupted


def test_the_last_words_of_an_interrupted_run_say_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, interruptible("the run"):
        raise Interrupted(Path("runs/one"), 143)
    assert left.value.code == 143
    words = "error: interrupted; finished trajectories are in runs/one; go on with --resume runs/one\n"
    assert capsys.readouterr().err == words


def test_a_signal_before_there_is_a_folder_is_named_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, interruptible("the replay"):
        raise KeyboardInterrupt
    assert left.value.code == 130
    assert capsys.readouterr().err == "error: interrupted before the replay began\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [["eval", "--list"], ["eval", "--help"], ["report", "--help"]])
def test_a_full_device_is_said_in_one_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", f"sgl_specreason.{words[0]}", *words[1:]]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: what was printed could not be written: no space left there\n"
