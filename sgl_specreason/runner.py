"""Owns the scheduling of trajectories: side by side, no barrier, nothing waits for a slow one. Knows nothing of files."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(tasks: Iterable[Task], work: Callable[[Task], Result], concurrency: int) -> Iterator[Result]:
    """Yields `work(task)` for every task as each one ends, `concurrency` at a time; `tasks` is read lazily.

    An exception of `work` is raised here. The threads are daemons: an interrupted run can always exit.
    """
    pending = iter(tasks)
    lock = threading.Lock()
    stop = threading.Event()
    results: queue.Queue[tuple[bool, Result | None, BaseException | None]] = queue.Queue()

    def worker() -> None:
        while not stop.is_set():
            with lock:
                task = next(pending, None)
            if task is None:
                break
            try:
                results.put((False, work(task), None))
            except BaseException as error:  # handed over to the reader below
                results.put((False, None, error))
        results.put((True, None, None))

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
