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
import time
from contextlib import suppress
from pathlib import Path

from sgl_specreason.errors import SpecReasonError

LIMIT_S = 5.0  # of processor time: a verdict does not depend on what else the machine does
WALL_S = 30.0  # where it does too much else
MEMORY_BYTES = 420 * 2**20  # of data: what is resident beside these keeps a worker under 500 MB
START_LIMIT_S = 120.0
TRIES = 3  # with a worker that somebody else ends


class Worker:
    """A worker process, started when it is first needed and again after each time that it was ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self._end)

    def equal(self, answer: str, gold: str) -> tuple[bool, str]:
        """Whether two LaTeX answers are equal, and "math-verify", "timeout" or "failed". May be called from any thread."""
        line = json.dumps([answer, gold]).encode() + b"\n"
        with self._lock:
            for _ in range(TRIES):
                process, begin = self._running(), time.monotonic()
                reply = self._exchange(process, line)
                if reply in (b"yes\n", b"no\n"):
                    return reply == b"yes\n", "math-verify"
                self._end()
                if process.returncode == -signal.SIGPROF or time.monotonic() - begin > WALL_S:
                    return False, "timeout"
                if process.returncode != -signal.SIGKILL:
                    break
        return False, "failed"

    def _running(self) -> subprocess.Popen[bytes]:
        """The worker, ready. Raises SpecReasonError where none starts."""
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is not None:
            return self._process
        for _ in range(TRIES):
            self._process = self._started()
            if self._reply(self._process, START_LIMIT_S) == b"ready\n":
                return self._process
            self._end()
        raise SpecReasonError("the grader's worker does not start; is math-verify installed?")

    @staticmethod
    def _started() -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parent.parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],  # -P: no module of the working directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the run, which ends this one itself
        )

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> bytes:
        """The worker's reply to a line; nothing where it was ended, also before it could read it."""
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return b""
        return self._reply(process, WALL_S)

    @staticmethod
    def _reply(process: subprocess.Popen[bytes], seconds: float) -> bytes:
        """A line, or less when the process ended or the time was over."""
        assert process.stdout is not None
        poll = select.poll()  # select takes no descriptor above 1023, and a run has many connections
        poll.register(process.stdout, select.POLLIN)
        return process.stdout.readline() if poll.poll(1000 * seconds) else b""

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
            with suppress(BrokenPipeError):  # what it had no time to read
                pipe.close()


_worker = Worker()
equal = _worker.equal


def serve() -> None:
    """The worker itself: a JSON pair in, "yes", "no" or "error" out, a line each. Ends with its input."""
    import logging

    from sgl_specreason.results.mathematics.equality import same

    logging.disable()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        try:
            answer, gold = json.loads(line)
            reply = "yes" if same(answer, gold) else "no"
        except MemoryError:
            reply = "error"
        except Exception:  # what sympy cannot compare is not equal
            reply = "no"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(reply, file=replies, flush=True)


if __name__ == "__main__":
    serve()
