"""Owns one engine process on behalf of a client: ends it when the client is gone, however that came about.

Started as `python -m sgl_specreason.engines.guard COMMAND...` with a pipe from the client as its standard input. The pipe
closes when the client ends, also by SIGKILL; then the engine's whole process group is ended. What the engine prints is passed on
without its key. Imports nothing heavy.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from typing import BinaryIO

from sgl_specreason.engines.keys import blacked
from sgl_specreason.engines.launch import KEY_VARIABLE

GRACE_S = 2.0
_PR_SET_PDEATHSIG = 1


def _die_with_parent(guard: int) -> None:
    """In the child: SIGKILL when the guard itself is killed (Linux only), and now if that was sooner than this."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os.kill(os.getpid(), signal.SIGKILL)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def main(command: list[str]) -> int:
    """Runs `command` until it ends or standard input closes. Returns its exit code (or 128 + signal)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the pipe decides, not the terminal
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=partial(_restore_signals, os.getpid()),
    )
    assert process.stdout is not None
    key = os.environ.get(KEY_VARIABLE, "")
    printing = threading.Thread(target=_pass_on, args=(process.stdout, key), daemon=True)
    printing.start()
    while process.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], 0.2)
        if readable and not os.read(sys.stdin.fileno(), 4096):
            break
    _end(process)
    printing.join(GRACE_S)
    code = process.returncode
    return code if code >= 0 else 128 - code


def _pass_on(output: BinaryIO, key: str) -> None:
    """Prints what the engine prints, line by line: SGLang logs its arguments, and the key is one of them."""
    for line in output:
        with suppress(OSError):  # a full disk must not stop the engine at its next line
            os.write(1, blacked(line.decode("utf-8", "surrogateescape"), key).encode("utf-8", "surrogateescape"))


def _restore_signals(guard: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _die_with_parent(guard)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
