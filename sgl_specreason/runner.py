"""Owns the scheduling of trajectories: side by side, no barrier, nothing waits for a slow one. Knows nothing of files."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

POLL_S = 0.2

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    concurrency: int,
    halt: threading.Event | None = None,
) -> Iterator[Result]:
    """Yields `work(task)` for every task as each one ends, `concurrency` at a time; `tasks` is read lazily.

    A reader that falls behind holds the work up: few results wait for it. Once `halt` is set, or `work` has raised something, no
    task is begun any more: what has ended is still yielded, what is under way is left behind, and the exception is raised here.
    The threads are daemons: an interrupted run can always exit.
    """
    pending = iter(tasks)
    lock = threading.Lock()
    stop = threading.Event()
    room = threading.Semaphore(3 * concurrency)  # of what is under way or waits for the reader
    results: queue.SimpleQueue[tuple[bool, Result | None, BaseException | None]] = queue.SimpleQueue()

    def next_task() -> Task | None:
        while not stop.is_set():
            if room.acquire(timeout=1.0):
                with lock:
                    return None if stop.is_set() else next(pending, None)
        return None

    def worker() -> None:
        while True:
            try:
                task = next_task()
                if task is None:
                    break
                result = work(task)
            except BaseException as error:  # handed over to the reader below
                results.put((False, None, error))
            else:
                results.put((False, result, None))
        results.put((True, None, None))

    for _ in range(concurrency):
        threading.Thread(target=worker, daemon=True).start()
    alive, failure = concurrency, None
    try:
        while alive:
            if halt is not None and halt.is_set():
                stop.set()
            try:
                ended, result, error = results.get(timeout=POLL_S)
            except queue.Empty:
                if stop.is_set():
                    break
                continue
            if error is not None:
                failure = failure or error
                stop.set()
            elif ended:
                alive -= 1
            else:
                yield result  # type: ignore[misc]  # None only where ended or error
                room.release()
        if failure is not None:
            raise failure
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
