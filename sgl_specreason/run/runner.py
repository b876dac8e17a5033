"""Owns the scheduling of trajectories: side by side, no barrier, nothing waits for a slow one. Knows nothing of files."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

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
