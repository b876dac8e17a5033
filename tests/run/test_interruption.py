"""Signals: the first one ends a run in good order, the second one at once."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from sgl_specreason.run.interruption import Interruption
interruption = Interruption()
with interruption.handled():
    try:
        if sys.argv[1] == "heeded":
            with interruption.heeded():
                print("up", flush=True)
                while not interruption.halt.is_set():
                    time.sleep(0.01)
        else:
            print("up", flush=True)
            time.sleep(60)
    except KeyboardInterrupt:
        print("raised", flush=True)
    print("saving", flush=True)
    if sys.argv[2] == "slowly":
        time.sleep(60)
sys.exit(interruption.code)
"""


def program(*words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("place", "said"), [("heeded", "saving\n"), ("elsewhere", "raised\nsaving\n")])
def test_the_first_signal_lets_the_run_save(number: signal.Signals, code: int, place: str, said: str) -> None:
    """While records are written it raises nothing: an exception could hit the middle of one."""
    process = program(place, "quickly")
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == said
    assert process.returncode == code


def test_the_second_signal_leaves_at_once() -> None:
    process = program("heeded", "slowly")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130
