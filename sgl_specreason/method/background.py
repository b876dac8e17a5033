"""Owns one more thread for a trajectory: what is written ahead of a decision runs in it. Knows nothing of steps."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Background:
    """One more thread for a trajectory, begun when it is first needed. A daemon, unlike an executor's: a run can always exit."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, future: "Future[Result]", work: Callable[[], Result]) -> None:
        """Sets `future` to what `work` returns or raises, after everything submitted before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._jobs.put((future, work))

    def close(self) -> None:
        """Lets the thread end after its last job."""
        self._jobs.put(None)

    def _run(self) -> None:
        while job := self._jobs.get():
            future, work = job
            try:
                result = work()
            except BaseException as error:  # handed over to whoever asks for the result
                future.set_exception(error)
            else:
                future.set_result(result)
