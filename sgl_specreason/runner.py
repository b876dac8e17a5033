"""Owns the scheduling of trajectories: side by side, no barrier, nothing waits for a slow one. Knows nothing of files."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(tasks: Iterable[Task], work: Callable[[Task], Result], concurrency: int) -> Iterator[Result]:
    """Yields `work(task)` for every task as each one ends, `concurrency` at a time; `tasks` is read lazily.

    A reader that falls behind holds the work up: few results wait for it. An exception of `work` is raised here. The
    threads are daemons: an interrupted run can always exit.
    """
    pending = iter(tasks)
    lock = threading.Lock()
    stop = threading.Event()
    results: queue.Queue[tuple[bool, Result | None, BaseException | None]] = queue.Queue(maxsize=2 * concurrency)

    def hand_over(*item: Any) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                results.put(item, timeout=1.0)
                return

    def worker() -> None:
        while not stop.is_set():
            with lock:
                task = next(pending, None)
            if task is None:
                break
            try:
                result = work(task)
            except BaseException as error:  # handed over to the reader below
                hand_over(False, None, error)
            else:
                hand_over(False, result, None)
        hand_over(True, None, None)

    for _ in range(concurrency):
        threading.Thread(target=worker, daemon=True).start()
    alive = concurrency
    try:
        while alive:
            ended, result, error = results.get()
            if error is not None:
                raise error
            if ended:
                alive -= 1
            else:
                yield result  # type: ignore[misc]  # None only where ended or error
    finally:
        stop.set()


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
