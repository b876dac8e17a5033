"""Owns the scheduling of trajectories: side by side, no barrier, nothing waits for a slow one. Knows nothing of files."""

import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

POLL_S = 0.2
SWITCH_S = 0.02
"""A thread gives way at each request by itself. One that waits for its turn wakes up so often: at Python's own 5 ms that is a
sixth of the CPU where 512 run side by side (eval/results/speed.md)."""

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
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    workers = _Workers(tasks, work, concurrency)
    alive, failure = concurrency, None
    try:
        while alive:
            if halt is not None and halt.is_set():
                workers.stop.set()
            try:
                outcome = workers.outcomes.get(timeout=POLL_S)
            except queue.Empty:
                if workers.stop.is_set():
                    break
                continue
            if isinstance(outcome, _Done):
                yield outcome.result
                workers.room.release()
            elif outcome is None:
                alive -= 1
            else:
                failure = failure or outcome
                workers.stop.set()
        if failure is not None:
            raise failure
    finally:
        workers.stop.set()
        sys.setswitchinterval(usual_s)


class _Done(NamedTuple, Generic[Result]):
    """What came of a task."""

    result: Result


class _Workers(Generic[Task, Result]):
    """Threads that share the tasks. `outcomes` has what came of each, and None for each thread that has ended.

    None of them begins another task once `stop` is set. `room` is for what is under way or waits for the reader.
    """

    def __init__(self, tasks: Iterable[Task], work: Callable[[Task], Result], count: int) -> None:
        self.outcomes: queue.SimpleQueue[_Done[Result] | BaseException | None] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.room = threading.Semaphore(3 * count)
        self._pending, self._lock, self._work = iter(tasks), threading.Lock(), work
        for _ in range(count):
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                task = self._next()
                if task is None:
                    break
                self.outcomes.put(_Done(self._work(task)))
            except BaseException as error:  # the reader raises it
                self.outcomes.put(error)
        self.outcomes.put(None)

    def _next(self) -> Task | None:
        while not self.stop.is_set():
            if self.room.acquire(timeout=1.0):
                with self._lock:
                    return None if self.stop.is_set() else next(self._pending, None)
        return None
