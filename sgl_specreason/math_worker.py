"""Owns the one process in which math-verify compares answers, with hard limits. Knows nothing of model outputs.

math-verify's own limits need the main thread and raise BaseExceptions; sympy can spend hours and gigabytes on a tower of
powers. Here a timer of the kernel ends the whole process at the limit, whatever it does, and the next comparison gets a new one.
"""

import atexit
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

LIMIT_S = 5.0
MEMORY_BYTES = 500 * 2**20
START_LIMIT_S = 120.0


class Worker:
    """A worker process, started when it is first needed and again after each time that it was ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self._end)

    def equal(self, answer: str, gold: str) -> tuple[bool, str]:
        """Whether two LaTeX answers are equal, and "math-verify", "timeout" or "failed". May be called from any thread."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            process.stdin.write(json.dumps([answer, gold]).encode() + b"\n")
            process.stdin.flush()
            reply = self._reply(process, LIMIT_S + 5.0)
            if reply in (b"yes\n", b"no\n"):
                return reply == b"yes\n", "math-verify"
            self._end()
            over = not reply and process.returncode in (-signal.SIGALRM, -signal.SIGKILL)
            return False, "timeout" if over else "failed"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            root = str(Path(__file__).parent.parent)
            paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # Ctrl-C is for the run, which ends this one itself
            )
            if self._reply(self._process, START_LIMIT_S) != b"ready\n":
                self._end()
                raise RuntimeError("the grader's worker did not start; is math-verify installed?")
        return self._process

    @staticmethod
    def _reply(process: subprocess.Popen[bytes], seconds: float) -> bytes:
        """A line, or less when the process ended or the time was over."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        return process.stdout.readline() if ready else b""

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(0.5)  # it may have been ended by its own timer just now: that is its returncode
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


_worker = Worker()
equal = _worker.equal


def serve() -> None:
    """The worker itself: a JSON pair in, "yes", "no" or "error" out, a line each. Ends with its input."""
    import logging

    from math_verify import parse, verify

    logging.disable()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            found, wanted = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in json.loads(line))
            same = found and wanted and verify(wanted, found, allow_set_relation_comp=True, timeout_seconds=None)
            reply = "yes" if same else "no"
        except (Exception, MemoryError):
            reply = "error"
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(reply, file=replies, flush=True)


if __name__ == "__main__":
    serve()
